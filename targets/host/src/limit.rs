//! How much memory this process may really use.
//!
//! The least of what binds: a memory limit of its control group or one above it (v2 `memory.max`, v1
//! `memory.limit_in_bytes`), and what the machine can give without swapping (`MemAvailable`). A process that takes
//! more is killed, or makes the machine crawl.

use crate::sys::{Cgroup, Root, field_of};
use std::fmt;
use std::path::{Path, PathBuf};

/// What sets a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LimitSource {
    /// A control group's limit, and the group's folder.
    Cgroup(Cgroup, PathBuf),
    /// The machine's free and reclaimable memory.
    Available,
    /// Nothing here says: the machine's whole memory, or none if that is unknown too.
    Unknown,
}

impl fmt::Display for LimitSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LimitSource::Cgroup(Cgroup::V1, at) => write!(f, "memory limit of control group (v1) {}", at.display()),
            LimitSource::Cgroup(Cgroup::V2, at) => write!(f, "memory limit of control group {}", at.display()),
            LimitSource::Available => write!(f, "available memory"),
            LimitSource::Unknown => write!(f, "no known limit"),
        }
    }
}

/// The memory that this process may use in all, what it uses already included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Bytes; `u64::MAX` if nothing is known.
    pub bytes: u64,
    /// What binds.
    pub source: LimitSource,
    /// Memory of the machine, if known.
    pub machine: Option<u64>,
    /// Whether the kernel keeps count of control groups' memory at all. Raspberry Pi OS boots with
    /// `cgroup_disable=memory`: then no group limit can be set and none is found.
    pub groups_counted: bool,
}

impl Limit {
    /// This process's limit now.
    pub fn of_this_process() -> Limit {
        Limit::read(&Root::default())
    }

    /// The limit as the files under `root` tell it.
    pub fn read(root: &Root) -> Limit {
        let info = root.text("/proc/meminfo").unwrap_or_default();
        let status = root.text("/proc/self/status").unwrap_or_default();
        let kib = |text: &str, key: &str| field_of(text, key).map(|k| k.saturating_mul(1024));
        let machine = kib(&info, "MemTotal");
        // Free, the page cache and what else can be dropped; kernels before 3.14 do not add it up themselves.
        let available = kib(&info, "MemAvailable").or_else(|| {
            Some(kib(&info, "MemFree")? + kib(&info, "Cached").unwrap_or(0) + kib(&info, "Buffers").unwrap_or(0))
        });
        let own = kib(&status, "RssAnon").unwrap_or(0);
        let mut limits: Vec<(u64, LimitSource)> = Vec::new();
        limits.extend(available.map(|a| (a.saturating_add(own), LimitSource::Available)));
        if let Some((version, folders)) = root.cgroup("memory") {
            let binding = |at: &PathBuf| {
                let left = group_limit(root, version, at, own)?;
                Some((left, LimitSource::Cgroup(version, at.clone())))
            };
            limits.extend(folders.iter().filter_map(binding));
        }
        let (bytes, source) =
            limits.into_iter().min_by_key(|l| l.0).unwrap_or((machine.unwrap_or(u64::MAX), LimitSource::Unknown));
        Limit { bytes, source, machine, groups_counted: groups_counted(root) }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.bytes == u64::MAX {
            return write!(f, "{}", self.source);
        }
        write!(f, "{} MiB ({})", self.bytes >> 20, self.source)
    }
}

/// What the limit of the group at `at` leaves to this process: the limit less what others in the group hold and cannot
/// be dropped. `None` if it has no limit.
fn group_limit(root: &Root, version: Cgroup, at: &Path, own: u64) -> Option<u64> {
    let (max, high, current, prefix) = match version {
        Cgroup::V2 => ("memory.max", "memory.high", "memory.current", ""),
        Cgroup::V1 => ("memory.limit_in_bytes", "", "memory.usage_in_bytes", "total_"),
    };
    // Above memory.high a group is not killed but throttled until it hardly moves: a limit just the same. v1 writes
    // "no limit" as the largest multiple of a page.
    let limits = [max, high].into_iter().filter(|f| !f.is_empty()).filter_map(|f| root.number(at.join(f)));
    let limit = limits.min().filter(|l| *l < 1 << 60)?;
    let stat = root.text(at.join("memory.stat")).unwrap_or_default();
    let droppable = |key: &str| field_of(&stat, &format!("{prefix}{key}")).unwrap_or(0);
    let used = root.number(at.join(current)).unwrap_or(0);
    let held = used.saturating_sub(droppable("active_file")).saturating_sub(droppable("inactive_file"));
    Some(limit.saturating_sub(held.saturating_sub(own)))
}

fn groups_counted(root: &Root) -> bool {
    if root.text("/sys/fs/cgroup/cgroup.controllers").is_some_and(|c| c.split(' ').any(|c| c == "memory")) {
        return true;
    }
    // Lines: name, hierarchy, groups, enabled.
    let enabled = |line: &str| line.starts_with("memory\t") && line.ends_with("\t1");
    root.text("/proc/cgroups").is_some_and(|text| text.lines().any(enabled))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::tests::fake;

    const MEMINFO: &str = "MemTotal: 1000000 kB\nMemFree: 1 kB\nMemAvailable: 800000 kB\n";
    const STATUS: &str = "VmHWM: 9 kB\nRssAnon: 1000 kB\n";

    #[test]
    fn available_memory_binds() {
        let (_d, root) = fake(&[("proc/meminfo", MEMINFO), ("proc/self/status", STATUS)]);
        let limit = Limit::read(&root);
        assert_eq!((limit.bytes, &limit.source), (801_000 * 1024, &LimitSource::Available));
        assert_eq!((limit.machine, limit.groups_counted), (Some(1_000_000 * 1024), false));
        assert_eq!(limit.to_string(), "782 MiB (available memory)");
    }

    #[test]
    fn the_tightest_group_binds() {
        let (_d, root) = fake(&[
            ("proc/meminfo", MEMINFO),
            ("proc/self/status", STATUS),
            ("proc/self/cgroup", "0::/a/b\n"),
            ("proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"),
            ("sys/fs/cgroup/cgroup.controllers", "cpu memory"),
            ("sys/fs/cgroup/a/b/memory.max", "max"),
            ("sys/fs/cgroup/a/memory.max", "500000000"),
            ("sys/fs/cgroup/a/memory.high", "400000000"),
            ("sys/fs/cgroup/a/memory.current", "300000000"),
            (
                "sys/fs/cgroup/a/memory.stat",
                "anon 100000000\nfile 200000000\ninactive_file 150000000\nactive_file 50000000",
            ),
        ]);
        let limit = Limit::read(&root);
        // 100 MB are held; 1,024,000 of them by this process.
        assert_eq!(limit.bytes, 400_000_000 - (100_000_000 - 1000 * 1024));
        assert_eq!(limit.source, LimitSource::Cgroup(Cgroup::V2, "/sys/fs/cgroup/a".into()));
        assert!(limit.groups_counted);
    }

    #[test]
    fn v1_and_nothing_at_all() {
        let group = |limit: &'static str| {
            let (_d, root) = fake(&[
                ("proc/self/cgroup", "4:memory:/g\n"),
                ("proc/cgroups", "#subsys_name\thierarchy\tnum_cgroups\tenabled\nmemory\t4\t3\t1\n"),
                ("proc/self/mountinfo", "25 23 0:22 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"),
                ("sys/fs/cgroup/memory/g/memory.limit_in_bytes", limit),
                ("sys/fs/cgroup/memory/g/memory.usage_in_bytes", "30000000"),
                ("sys/fs/cgroup/memory/g/memory.stat", "total_inactive_file 5\ntotal_active_file 29999995\n"),
            ]);
            Limit::read(&root)
        };
        assert_eq!(group("100000000").bytes, 100_000_000);
        assert_eq!(group("9223372036854771712").source, LimitSource::Unknown);
        assert!(group("1").groups_counted);
        assert_eq!(Limit::read(&fake(&[]).1).bytes, u64::MAX);
    }

    #[test]
    fn this_machine() {
        let limit = Limit::of_this_process();
        println!("{limit}");
        assert!(limit.bytes > 1 << 20);
    }
}
