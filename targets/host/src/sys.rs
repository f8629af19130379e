//! Reading what Linux says of itself under `/proc` and `/sys`.

use std::path::{Path, PathBuf};

/// Where `/proc` and `/sys` are found: `/`, or a folder with copies of them in tests.
#[derive(Clone, Debug)]
pub struct Root(PathBuf);

impl Default for Root {
    fn default() -> Self {
        Root("/".into())
    }
}

/// Which generation of control groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cgroup {
    /// One hierarchy per controller.
    V1,
    /// The unified hierarchy.
    V2,
}

impl Root {
    /// A folder that stands for `/`.
    pub fn at(folder: impl Into<PathBuf>) -> Root {
        Root(folder.into())
    }

    /// The text of a file, trimmed; `None` if it cannot be read.
    pub(crate) fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        let path = path.as_ref();
        let bytes = std::fs::read(self.0.join(path.strip_prefix("/").unwrap_or(path))).ok()?;
        Some(String::from_utf8_lossy(&bytes).trim().to_string())
    }

    /// A file that holds one number.
    pub(crate) fn number(&self, path: impl AsRef<Path>) -> Option<u64> {
        self.text(path)?.parse().ok()
    }

    /// The value of `key` in a file of lines `key value` or `key: value unit`.
    pub(crate) fn field(&self, path: impl AsRef<Path>, key: &str) -> Option<u64> {
        field_of(&self.text(path)?, key)
    }

    /// Names in a folder, sorted; none if it cannot be read.
    pub(crate) fn names(&self, folder: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.join(folder.trim_start_matches('/'))).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// The folders of this process's control group for `controller`, its own first, then its ancestors up to where the
    /// hierarchy is mounted. A limit in any of them binds.
    pub(crate) fn cgroup(&self, controller: &str) -> Option<(Cgroup, Vec<PathBuf>)> {
        let groups = self.text("/proc/self/cgroup")?;
        let mounts = self.text("/proc/self/mountinfo")?;
        let v1 = groups.lines().filter_map(|line| {
            let mut f = line.splitn(3, ':').skip(1);
            let (names, path) = (f.next()?, f.next()?);
            names.split(',').any(|n| n == controller).then_some((Cgroup::V1, path))
        });
        let v2 = groups.lines().filter_map(|line| Some((Cgroup::V2, line.strip_prefix("0::")?)));
        // A v1 hierarchy that has the controller wins: then the unified one does not have it.
        v1.chain(v2).find_map(|(version, path)| {
            let (root, point) = mounts.lines().find_map(|line| mounted(line, version, controller))?;
            let below = Path::new(path).strip_prefix(&root).unwrap_or(Path::new(""));
            // A path that leads out of this namespace (`/../..`) has no folder here: the mount point is what we see.
            let below = if below.components().all(|c| matches!(c, std::path::Component::Normal(_))) {
                below
            } else {
                Path::new("")
            };
            let own = if below.as_os_str().is_empty() { point.clone() } else { point.join(below) };
            let chain = own.ancestors().take_while(|a| a.starts_with(&point)).map(Path::to_path_buf).collect();
            Some((version, chain))
        })
    }
}

/// `(root, mount point)` if this line of mountinfo mounts the hierarchy in question.
fn mounted(line: &str, version: Cgroup, controller: &str) -> Option<(PathBuf, PathBuf)> {
    let (head, tail) = line.split_once(" - ")?;
    let mut tail = tail.split(' ');
    let (kind, options) = (tail.next()?, tail.nth(1)?);
    let right = match version {
        Cgroup::V2 => kind == "cgroup2",
        Cgroup::V1 => kind == "cgroup" && options.split(',').any(|o| o == controller),
    };
    let mut head = head.split(' ').skip(3);
    let (root, point) = (head.next()?, head.next()?);
    right.then(|| (root.into(), point.into()))
}

/// The value of `key` among lines `key value` or `key: value unit`.
pub(crate) fn field_of(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (k, v) = line.split_once(|c: char| c == ':' || c.is_whitespace())?;
        (k == key).then(|| v.split_whitespace().next()?.parse().ok()).flatten()
    })
}

/// The numbers of a list such as `0-3,8,10-11`.
pub(crate) fn cpu_list(text: &str) -> Vec<usize> {
    let range = |part: &str| -> Option<std::ops::RangeInclusive<usize>> {
        let (a, b) = part.split_once('-').unwrap_or((part, part));
        let (a, b) = (a.trim().parse().ok()?, b.trim().parse().ok()?);
        (b < 1 << 16).then_some(a..=b)
    };
    text.split(',').filter_map(range).flatten().collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A folder that stands for `/`, holding these files.
    pub(crate) fn fake(files: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let root = Root::at(dir.path());
        (dir, root)
    }

    #[test]
    fn finds_the_control_group() {
        let v1 = "24 23 0:21 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                  25 23 0:22 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let (_d, root) =
            fake(&[("proc/self/cgroup", "4:memory:/a/b\n1:cpu,cpuacct:/\n0::/x\n"), ("proc/self/mountinfo", v1)]);
        let paths = |p: &[&str]| p.iter().map(PathBuf::from).collect::<Vec<_>>();
        let memory = ["/sys/fs/cgroup/memory/a/b", "/sys/fs/cgroup/memory/a", "/sys/fs/cgroup/memory"];
        assert_eq!(root.cgroup("memory"), Some((Cgroup::V1, paths(&memory))));
        assert_eq!(root.cgroup("cpu"), Some((Cgroup::V1, paths(&["/sys/fs/cgroup/cpu"]))));
        assert_eq!(root.cgroup("io"), None);

        let v2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n";
        let (_d, root) = fake(&[("proc/self/cgroup", "0::/user.slice/x\n"), ("proc/self/mountinfo", v2)]);
        let chain = ["/sys/fs/cgroup/user.slice/x", "/sys/fs/cgroup/user.slice", "/sys/fs/cgroup"];
        assert_eq!(root.cgroup("memory"), Some((Cgroup::V2, paths(&chain))));

        // A container that sees its own group as the mount's root, and one that sees a path outside.
        let sub = "30 23 0:26 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let (_d, root) = fake(&[("proc/self/cgroup", "0::/docker/abc\n"), ("proc/self/mountinfo", sub)]);
        assert_eq!(root.cgroup("memory"), Some((Cgroup::V2, paths(&["/sys/fs/cgroup"]))));
        let (_d, root) = fake(&[("proc/self/cgroup", "0::/../../y\n"), ("proc/self/mountinfo", v2)]);
        assert_eq!(root.cgroup("memory"), Some((Cgroup::V2, paths(&["/sys/fs/cgroup"]))));
        assert_eq!(fake(&[]).1.cgroup("memory"), None);
    }

    #[test]
    fn reads_fields_and_lists() {
        assert_eq!(field_of("MemTotal:  12 kB\nMemFree: 3 kB", "MemFree"), Some(3));
        assert_eq!(field_of("file 99\nanon 4", "anon"), Some(4));
        assert_eq!(field_of("file 99", "fil"), None);
        assert_eq!(cpu_list("0-2,5,7-6,x,9-"), [0, 1, 2, 5]);
        assert_eq!(cpu_list("0-99999999999"), [0usize; 0]);
        assert_eq!(cpu_list(""), [0usize; 0]);
    }
}
