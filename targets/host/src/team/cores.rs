//! Which cores there really are for this process.

use crate::sys::{Cgroup, Root, cpu_list};

/// Cores that a team's threads should run on.
#[derive(Clone, Debug, PartialEq)]
pub struct Cores {
    cpus: Vec<usize>,
    /// Whether some allowed cores were left out, so that threads must be kept off them.
    chosen: bool,
    quota: Option<f64>,
}

/// The number of workers that suits this machine and this process: see [`Cores::detect`].
pub fn default_threads() -> usize {
    Cores::detect().threads()
}

impl Cores {
    /// The cores that this process may use (affinity mask), of unequal ones only those of the fast kind, and of the
    /// hardware threads of one core only one: decoding waits for memory, and a second hardware thread, or a core a third
    /// as fast, only adds a straggler.
    pub fn detect() -> Cores {
        Cores::detect_in(&Root::default(), &allowed())
    }

    /// Every core that this process may use.
    pub fn all() -> Cores {
        Cores { cpus: allowed(), chosen: false, quota: None }
    }

    fn detect_in(root: &Root, allowed: &[usize]) -> Cores {
        let number = |cpu: usize, file: &str| root.number(format!("/sys/devices/system/cpu/cpu{cpu}/{file}"));
        // The kernel's own measure of a core, 1024 for the fastest; with it a core of half the power is a little one.
        // Frequencies alone tell less: only clearly slower cores are left out by them.
        let fast = |file: &str, share: f64| -> Option<Vec<usize>> {
            let all: Vec<(usize, u64)> = allowed.iter().filter_map(|&c| Some((c, number(c, file)?))).collect();
            let best = all.iter().map(|x| x.1).max().filter(|&b| b > 0 && all.len() == allowed.len())?;
            Some(all.iter().filter(|x| x.1 as f64 >= share * best as f64).map(|x| x.0).collect())
        };
        let differ = |file: &str| allowed.windows(2).any(|w| number(w[0], file) != number(w[1], file));
        let by_capacity = differ("cpu_capacity").then(|| fast("cpu_capacity", 0.5)).flatten();
        let fast = by_capacity.or_else(|| fast("cpufreq/cpuinfo_max_freq", 0.8)).unwrap_or(allowed.to_vec());
        let first_of_its_core = |cpu: &usize| {
            let list = root.text(format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"));
            let siblings = list.map(|l| cpu_list(&l)).unwrap_or_default();
            !siblings.iter().any(|s| s < cpu && fast.contains(s))
        };
        let cpus: Vec<usize> = fast.iter().copied().filter(first_of_its_core).collect();
        Cores { chosen: cpus.len() < allowed.len(), cpus, quota: cpu_quota(root) }
    }

    /// The cores' numbers.
    pub fn cpus(&self) -> &[usize] {
        &self.cpus
    }

    /// Processors' worth of time that the control group grants, if it limits that.
    pub fn quota(&self) -> Option<f64> {
        self.quota
    }

    /// One worker for each core, but no more than the control group's quota pays for in full: a team that runs out of
    /// quota stands still until the next period. At least 1.
    pub fn threads(&self) -> usize {
        let paid = self.quota.map_or(usize::MAX, |q| q as usize);
        self.cpus.len().min(paid).max(1)
    }

    /// Keeps the calling thread on these cores, if they were chosen among more. Refusal is ignored: the thread then
    /// runs where it is put.
    pub fn confine_this_thread(&self) {
        #[cfg(target_os = "linux")]
        if self.chosen && !self.cpus.is_empty() {
            let mut set = rustix::thread::CpuSet::new();
            self.cpus.iter().filter(|c| **c < rustix::thread::CpuSet::MAX_CPU).for_each(|c| set.set(*c));
            let _ = rustix::thread::sched_setaffinity(None, &set);
        }
    }
}

fn allowed() -> Vec<usize> {
    #[cfg(target_os = "linux")]
    if let Ok(set) = rustix::thread::sched_getaffinity(None) {
        let cpus: Vec<usize> = (0..rustix::thread::CpuSet::MAX_CPU).filter(|c| set.is_set(*c)).collect();
        if !cpus.is_empty() {
            return cpus;
        }
    }
    (0..std::thread::available_parallelism().map_or(1, |n| n.get())).collect()
}

fn cpu_quota(root: &Root) -> Option<f64> {
    let (version, folders) = root.cgroup("cpu")?;
    let quota = |folder: &std::path::PathBuf| -> Option<f64> {
        let (quota, period) = match version {
            Cgroup::V2 => {
                let text = root.text(folder.join("cpu.max"))?;
                let (quota, period) = text.split_once(' ')?;
                (quota.parse().ok()?, period.parse().ok()?)
            }
            Cgroup::V1 => {
                let text = root.text(folder.join("cpu.cfs_quota_us"))?;
                (text.parse::<i64>().ok()? as f64, root.number(folder.join("cpu.cfs_period_us"))? as f64)
            }
        };
        (quota > 0.0 && period > 0.0).then_some(quota / period)
    };
    folders.iter().filter_map(quota).min_by(f64::total_cmp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::tests::fake;

    #[test]
    fn big_cores_only() {
        let capacity = |i: usize, c: u32| (format!("sys/devices/system/cpu/cpu{i}/cpu_capacity"), c.to_string());
        let files: Vec<_> = (0..8).map(|i| capacity(i, if i < 4 { 397 } else { 1024 })).collect();
        let files: Vec<(&str, &str)> = files.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        let (_d, root) = fake(&files);
        let cores = Cores::detect_in(&root, &[0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!((cores.cpus(), cores.chosen, cores.threads()), (&[4, 5, 6, 7][..], true, 4));
        // Kept to the little ones by its affinity: those are what there is.
        let cores = Cores::detect_in(&root, &[0, 1]);
        assert_eq!((cores.cpus(), cores.chosen), (&[0, 1][..], false));
    }

    #[test]
    fn frequencies_siblings_and_nothing() {
        let mut files = Vec::new();
        for i in 0..6 {
            let dir = format!("sys/devices/system/cpu/cpu{i}");
            files.push((format!("{dir}/cpufreq/cpuinfo_max_freq"), if i < 4 { "5100000" } else { "3800000" }));
            let siblings = ["0-1", "0-1", "2,3", "2,3", "4", "5"][i];
            files.push((format!("{dir}/topology/thread_siblings_list"), siblings));
        }
        let files: Vec<(&str, &str)> = files.iter().map(|(a, b)| (a.as_str(), *b)).collect();
        let (_d, root) = fake(&files);
        assert_eq!(Cores::detect_in(&root, &[0, 1, 2, 3, 4, 5]).cpus(), [0, 2]);
        assert_eq!(Cores::detect_in(&root, &[1, 3]).cpus(), [1, 3]);
        let (_d, root) = fake(&[]);
        assert_eq!(Cores::detect_in(&root, &[0, 1, 5]).cpus(), [0, 1, 5]);
        assert_eq!(Cores::detect_in(&root, &[]).threads(), 1);
    }

    #[test]
    fn quota_limits_threads() {
        let mounts = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let with = |own: &str, parent: &str| {
            let (_d, root) = fake(&[
                ("proc/self/cgroup", "0::/a/b\n"),
                ("proc/self/mountinfo", mounts),
                ("sys/fs/cgroup/a/b/cpu.max", own),
                ("sys/fs/cgroup/a/cpu.max", parent),
            ]);
            Cores::detect_in(&root, &[0, 1, 2, 3]).threads()
        };
        assert_eq!(with("max 100000", "max 100000"), 4);
        assert_eq!(with("max 100000", "250000 100000"), 2);
        assert_eq!(with("50000 100000", "250000 100000"), 1);
        assert_eq!(with("rubbish", "0 0"), 4);
        let v1 = "24 23 0:21 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n";
        let (_d, root) = fake(&[
            ("proc/self/cgroup", "1:cpu:/g\n"),
            ("proc/self/mountinfo", v1),
            ("sys/fs/cgroup/cpu/g/cpu.cfs_quota_us", "300000"),
            ("sys/fs/cgroup/cpu/g/cpu.cfs_period_us", "100000"),
            ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1"),
            ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000"),
        ]);
        assert_eq!(Cores::detect_in(&root, &[0, 1, 2, 3]).quota(), Some(3.0));
    }

    #[test]
    fn this_machine() {
        let cores = Cores::detect();
        assert!(!cores.cpus().is_empty() && default_threads() <= Cores::all().cpus().len());
    }
}
