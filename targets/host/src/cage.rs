//! Running a program under a hard memory limit: in a control group of its own.
//!
//! Tried in this order: a group of the second generation, one of the first, a systemd scope. Where none can be had the
//! program runs as it is and its own promise is all that there is.

use crate::limit::Limit;
use crate::sys::{Cgroup, Root};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What holds a program in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cage {
    /// A control group made for it, removed when this is dropped.
    Group(Cgroup, PathBuf),
    /// `systemd-run --scope`, by the user's own manager or (for root) the system's.
    Systemd {
        /// Whether it is the user's manager.
        user: bool,
        /// The limit in bytes.
        bytes: u64,
    },
    /// Nothing: the program's own promise.
    None,
}

impl Cage {
    /// The strictest that this process may make for `bytes` bytes.
    pub fn new(bytes: u64) -> Cage {
        let root = Root::default();
        if let Some((version, folders)) = root.cgroup("memory") {
            // The first generation takes a group anywhere; in the second only groups without processes of their own
            // may have limited children, so that the search goes up.
            let found = folders.iter().find_map(|above| group(version, above, bytes));
            if let Some(folder) = found {
                return Cage::Group(version, folder);
            }
        }
        for user in [true, false] {
            let cage = Cage::Systemd { user, bytes };
            if cage.command(OsStr::new("true")).output().is_ok_and(|o| o.status.success()) {
                return cage;
            }
        }
        Cage::None
    }

    /// A command that runs `program` inside.
    pub fn command(&self, program: &OsStr) -> Command {
        match self {
            Cage::Group(_, folder) => {
                // The shell moves itself in, then becomes the program: nothing of the program is charged outside.
                let mut command = Command::new("sh");
                command.args(["-c", "echo $$ > \"$0\"/cgroup.procs && exec \"$@\""]).arg(folder).arg(program);
                command
            }
            Cage::Systemd { user, bytes } => {
                let mut command = Command::new("systemd-run");
                if *user {
                    command.arg("--user");
                }
                command.args(["--scope", "--quiet", "-p", &format!("MemoryMax={bytes}"), "-p", "MemorySwapMax=0"]);
                command.arg("--").arg(program);
                command
            }
            Cage::None => Command::new(program),
        }
    }

    /// Most bytes ever charged to the group, file pages included.
    pub fn peak(&self) -> Option<u64> {
        let Cage::Group(version, folder) = self else { return None };
        let file = match version {
            Cgroup::V2 => "memory.peak",
            Cgroup::V1 => "memory.max_usage_in_bytes",
        };
        std::fs::read_to_string(folder.join(file)).ok()?.trim().parse().ok()
    }

    /// Why no better cage than none can be had here, and how to change that.
    pub fn why_none() -> &'static str {
        Cage::why_none_at(&Root::default())
    }

    fn why_none_at(root: &Root) -> &'static str {
        if !Limit::read(root).groups_counted {
            return "this kernel counts no memory of control groups, so that the limit is the program's own promise, which \
                    nothing enforces; on Raspberry Pi OS add cgroup_enable=memory to the line in \
                    /boot/firmware/cmdline.txt and restart";
        }
        let hands_on = |folder: &PathBuf| {
            let list = root.text(folder.join("cgroup.subtree_control")).unwrap_or_default();
            list.split(' ').any(|controller| controller == "memory")
        };
        match root.cgroup("memory") {
            Some((Cgroup::V2, folders)) if !folders.iter().any(hands_on) => {
                "no control group here hands its memory controller on, so that the limit is the program's own promise, \
                 which nothing enforces; as root, echo +memory > /sys/fs/cgroup/cgroup.subtree_control"
            }
            _ => {
                "this user may make no control group, so that the limit is the program's own promise, which nothing \
                 enforces; run as root, or where systemd runs"
            }
        }
    }

    /// For people.
    pub fn name(&self) -> &'static str {
        match self {
            Cage::Group(Cgroup::V2, _) => "control group v2",
            Cage::Group(Cgroup::V1, _) => "control group v1",
            Cage::Systemd { .. } => "systemd scope",
            Cage::None => "self-imposed",
        }
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        if let Cage::Group(_, folder) = self {
            // The last process may take a moment to leave.
            for _ in 0..20 {
                if std::fs::remove_dir(&*folder).is_ok() {
                    return;
                }
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        }
    }
}

/// Makes a group under `above` with this limit and no swap; `None`, and nothing left, if that is not allowed.
fn group(version: Cgroup, above: &Path, bytes: u64) -> Option<PathBuf> {
    let folder = above.join(format!("drupe-{}-{bytes}", std::process::id()));
    std::fs::create_dir(&folder).ok()?;
    let write = |file: &str, value: &str| std::fs::write(folder.join(file), value);
    let limited = match version {
        Cgroup::V2 => {
            // Swap is not there on every kernel.
            let _ = write("memory.swap.max", "0");
            write("memory.max", &bytes.to_string())
        }
        Cgroup::V1 => {
            let _ = write("memory.swappiness", "0");
            write("memory.limit_in_bytes", &bytes.to_string())
        }
    };
    if limited.is_err() {
        let _ = std::fs::remove_dir(&folder);
        return None;
    }
    Some(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_runs_in_whatever_cage_there_is() {
        let cage = Cage::new(64 << 20);
        println!("{}", cage.name());
        let output = cage.command(OsStr::new("echo")).arg("a b").output().unwrap();
        assert_eq!(output.stdout, b"a b\n", "{}", String::from_utf8_lossy(&output.stderr));
        if let Cage::Group(_, folder) = &cage {
            let folder = folder.clone();
            assert!(cage.peak().is_some_and(|p| p < 64 << 20));
            drop(cage);
            assert!(!folder.exists());
        }
    }

    #[test]
    fn tells_why_there_is_none() {
        let groups = |on: &'static str| {
            let (_d, root) = crate::sys::tests::fake(&[
                ("proc/self/cgroup", "0::/a\n"),
                ("proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"),
                ("sys/fs/cgroup/cgroup.controllers", "cpu memory"),
                ("sys/fs/cgroup/cgroup.subtree_control", on),
            ]);
            Cage::why_none_at(&root)
        };
        assert!(groups("cpu").contains("subtree_control") && groups("cpu memory").contains("this user"));
        let (_d, root) = crate::sys::tests::fake(&[]);
        assert!(Cage::why_none_at(&root).contains("cgroup_enable=memory"));
    }

    #[test]
    fn a_folder_that_is_no_control_group_is_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let refused = group(Cgroup::V2, &dir.path().join("missing"), 1 << 20);
        assert_eq!(refused, None);
    }
}
