//! What this process has used so far, by the kernel's own accounting, and the state of the processor it runs on.

use crate::sys::{Cgroup, Root, field_of};
use std::ffi::OsStr;
use std::ops::Range;
use std::path::PathBuf;

/// A process's use of memory and storage. Fields that this system does not tell are `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Most bytes ever resident, anonymous and mapped together (`VmHWM`).
    pub peak_resident: Option<u64>,
    /// Anonymous bytes resident now (`RssAnon`).
    pub anonymous: Option<u64>,
    /// Bytes of mapped files resident now (`RssFile`).
    pub file: Option<u64>,
    /// Shared anonymous bytes resident now (`RssShmem`).
    pub shared: Option<u64>,
    /// Page faults served without reading storage.
    pub minor_faults: Option<u64>,
    /// Page faults that waited for storage.
    pub major_faults: Option<u64>,
    /// Bytes that this process caused to be read from storage.
    pub storage_read: Option<u64>,
    /// Most bytes ever charged to the control group (`memory.peak`, `memory.max_usage_in_bytes`): this process's, and
    /// whatever else is in the group. Not told for the root group.
    pub group_peak: Option<u64>,
    /// Processor time, user and system, in microseconds.
    pub cpu_us: Option<u64>,
}

impl Usage {
    /// This process's use until now.
    pub fn now() -> Usage {
        Usage::read(&Root::default())
    }

    /// The use as the files under `root` tell it.
    pub fn read(root: &Root) -> Usage {
        let status = root.text("/proc/self/status").unwrap_or_default();
        let kib = |key: &str| field_of(&status, key).map(|k| k.saturating_mul(1024));
        let stat = stat_fields(root);
        let stat_at = |i: usize| stat.get(i).copied();
        let tick_us = 1_000_000 / rustix::param::clock_ticks_per_second().max(1);
        Usage {
            peak_resident: kib("VmHWM"),
            anonymous: kib("RssAnon"),
            file: kib("RssFile"),
            shared: kib("RssShmem"),
            // proc(5): minflt is field 10, majflt 12, utime 14, stime 15; the list starts after field 2.
            minor_faults: stat_at(10 - 3),
            major_faults: stat_at(12 - 3),
            cpu_us: stat_at(14 - 3).zip(stat_at(15 - 3)).map(|(u, s)| (u + s).saturating_mul(tick_us)),
            storage_read: root.field("/proc/self/io", "read_bytes"),
            group_peak: group_peak(root),
        }
    }

    /// What was used since `before`: counters are subtracted, levels and peaks are as they are now.
    pub fn since(&self, before: &Usage) -> Usage {
        let less = |a: Option<u64>, b: Option<u64>| Some(a?.saturating_sub(b?));
        Usage {
            minor_faults: less(self.minor_faults, before.minor_faults),
            major_faults: less(self.major_faults, before.major_faults),
            storage_read: less(self.storage_read, before.storage_read),
            cpu_us: less(self.cpu_us, before.cpu_us),
            ..self.clone()
        }
    }

    /// Makes [`Usage::peak_resident`] count from now on, if the system can (Linux). Whether it did.
    pub fn reset_peak() -> bool {
        cfg!(target_os = "linux") && std::fs::write("/proc/self/clear_refs", "5").is_ok()
    }
}

/// How many bytes of this process's memory at `addresses`, which is a range of whole anonymous pages but for its ends, are
/// resident. `None` where the system does not tell (`/proc/self/pagemap`, of Linux).
pub fn resident_in(addresses: Range<usize>) -> Option<u64> {
    use std::os::unix::fs::FileExt;
    let page = rustix::param::page_size();
    let (first, last) = (addresses.start / page, addresses.end.div_ceil(page));
    let map = std::fs::File::open("/proc/self/pagemap").ok()?;
    let (mut words, mut at, mut found) = ([0u8; 8 * 512], first, 0);
    while at < last {
        let part = &mut words[..8 * (last - at).min(512)];
        map.read_exact_at(part, at as u64 * 8).ok()?;
        // Bit 63 of a page's word: present.
        let words = part.as_chunks().0.iter().map(|word| u64::from_ne_bytes(*word));
        found += words.filter(|word| word >> 63 == 1).count();
        at += part.len() / 8;
    }
    Some((found * page) as u64)
}

/// The numbers of `/proc/self/stat` after the name and the state; a name may hold anything, even `)`.
fn stat_fields(root: &Root) -> Vec<u64> {
    let text = root.text("/proc/self/stat").unwrap_or_default();
    let after = text.rsplit_once(')').map_or("", |x| x.1);
    // The state, a letter, stands for 0 to keep the count.
    after.split_whitespace().map(|f| f.parse().unwrap_or(0)).collect()
}

fn group_peak(root: &Root) -> Option<u64> {
    let (version, folders) = root.cgroup("memory")?;
    let file = match version {
        Cgroup::V2 => "memory.peak",
        Cgroup::V1 => "memory.max_usage_in_bytes",
    };
    // The last folder is the root of the hierarchy: the whole machine.
    let own: &PathBuf = folders.first().filter(|_| folders.len() > 1)?;
    root.number(own.join(file))
}

/// Clock and heat of the processor at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Clock {
    /// Slowest and fastest core's present frequency in MHz.
    pub frequency_mhz: Option<(u32, u32)>,
    /// Hottest sensor in °C.
    pub celsius: Option<f32>,
    /// Reasons for which the machine is, or since boot has been, slowed down; empty if it says none, `None` if it
    /// cannot say.
    pub throttled: Option<Vec<&'static str>>,
}

/// The bits of a Raspberry Pi's throttling word (its firmware's `get_throttled`).
const PI_FLAGS: [(u32, &str); 8] = [
    (0, "under-voltage"),
    (1, "frequency capped"),
    (2, "throttled"),
    (3, "soft temperature limit"),
    (16, "under-voltage has occurred"),
    (17, "frequency was capped"),
    (18, "throttling has occurred"),
    (19, "soft temperature limit was reached"),
];

impl Clock {
    /// The state now. Starts no program.
    pub fn now() -> Clock {
        Clock::read(&Root::default())
    }

    /// The state as the files under `root` tell it.
    pub fn read(root: &Root) -> Clock {
        let policies = root.names("/sys/devices/system/cpu/cpufreq");
        let khz = |policy: &String| root.number(format!("/sys/devices/system/cpu/cpufreq/{policy}/scaling_cur_freq"));
        let mhz: Vec<u32> = policies.iter().filter_map(khz).map(|k| (k / 1000) as u32).collect();
        let zones = root.names("/sys/class/thermal");
        let milli = |zone: &String| {
            root.text(format!("/sys/class/thermal/{zone}/temp"))?
                .parse::<i32>()
                .ok()
                .filter(|_| zone.starts_with("thermal"))
        };
        Clock {
            frequency_mhz: mhz.iter().min().copied().zip(mhz.iter().max().copied()),
            celsius: zones.iter().filter_map(milli).max().map(|m| m as f32 / 1000.0),
            throttled: pi_word(root).map(pi_flags).or_else(|| pi_alarm(root)).or_else(|| x86_count(root)),
        }
    }

    /// Asks a Raspberry Pi's `vcgencmd` where the files do not tell the whole word (it starts that program; not for
    /// the middle of a measurement).
    pub fn ask_firmware(self) -> Clock {
        self.ask("vcgencmd".as_ref())
    }

    /// The same of the program at this path.
    fn ask(mut self, vcgencmd: &OsStr) -> Clock {
        // It says `throttled=0x50005`, or on a machine that has the program but not the hardware, an error.
        let told = std::process::Command::new(vcgencmd).arg("get_throttled").output().ok();
        let word = told.and_then(|o| parse_hex(String::from_utf8_lossy(&o.stdout).trim().strip_prefix("throttled=")?));
        if let Some(word) = word {
            self.throttled = Some(pi_flags(word));
        }
        self
    }
}

fn pi_word(root: &Root) -> Option<u32> {
    let path = "/sys/devices/platform/soc/soc:firmware/get_throttled";
    root.text(path).and_then(|t| parse_hex(&t))
}

fn parse_hex(text: &str) -> Option<u32> {
    u32::from_str_radix(text.trim_start_matches("0x"), 16).ok()
}

fn pi_flags(word: u32) -> Vec<&'static str> {
    PI_FLAGS.iter().filter(|(bit, _)| word >> bit & 1 == 1).map(|x| x.1).collect()
}

/// The Raspberry Pi's `rpi_volt` sensor: under-voltage since the last look.
fn pi_alarm(root: &Root) -> Option<Vec<&'static str>> {
    let sensors = root.names("/sys/class/hwmon");
    let pi = sensors.iter().find(|s| root.text(format!("/sys/class/hwmon/{s}/name")).as_deref() == Some("rpi_volt"))?;
    let alarm = root.number(format!("/sys/class/hwmon/{pi}/in0_lcrit_alarm"))?;
    Some(if alarm == 0 { vec![] } else { vec![PI_FLAGS[0].1] })
}

/// x86: counts of thermal throttling since boot.
fn x86_count(root: &Root) -> Option<Vec<&'static str>> {
    let at = "/sys/devices/system/cpu/cpu0/thermal_throttle";
    let core = root.number(format!("{at}/core_throttle_count"))?;
    let package = root.number(format!("{at}/package_throttle_count")).unwrap_or(0);
    Some(if core + package == 0 { vec![] } else { vec!["thermal throttling has occurred since boot"] })
}

/// What kind of processor and machine this is, for people: `Cortex-A76 (Raspberry Pi 5 Model B Rev 1.0)`.
pub fn cpu_name() -> String {
    cpu_name_in(&Root::default())
}

/// Implementer 0x41 (Arm) part numbers, from the cores' technical reference manuals.
const ARM_PARTS: [(u64, &str); 22] = [
    (0xd03, "Cortex-A53"),
    (0xd04, "Cortex-A35"),
    (0xd05, "Cortex-A55"),
    (0xd07, "Cortex-A57"),
    (0xd08, "Cortex-A72"),
    (0xd09, "Cortex-A73"),
    (0xd0a, "Cortex-A75"),
    (0xd0b, "Cortex-A76"),
    (0xd0c, "Neoverse-N1"),
    (0xd0d, "Cortex-A77"),
    (0xd40, "Neoverse-V1"),
    (0xd41, "Cortex-A78"),
    (0xd42, "Cortex-A78AE"),
    (0xd44, "Cortex-X1"),
    (0xd46, "Cortex-A510"),
    (0xd47, "Cortex-A710"),
    (0xd48, "Cortex-X2"),
    (0xd49, "Neoverse-N2"),
    (0xd4d, "Cortex-A715"),
    (0xd4f, "Neoverse-V2"),
    (0xd80, "Cortex-A520"),
    (0xd81, "Cortex-A720"),
];

fn cpu_name_in(root: &Root) -> String {
    let info = root.text("/proc/cpuinfo").unwrap_or_default();
    let values = |key: &str| -> Vec<String> {
        let value = |line: &str| {
            let (k, v) = line.split_once(':')?;
            (k.trim() == key).then(|| v.trim().to_string())
        };
        info.lines().filter_map(value).collect()
    };
    let mut kinds: Vec<String> = values("model name");
    if kinds.is_empty() {
        let name = |part: &String| {
            let number = parse_hex(part)? as u64;
            let known = ARM_PARTS.iter().find(|p| p.0 == number).map(|p| p.1.to_string());
            Some(known.unwrap_or_else(|| format!("Arm part {part}")))
        };
        kinds = values("CPU part").iter().filter_map(name).collect();
    }
    kinds.sort();
    kinds.dedup();
    let cpu = if kinds.is_empty() { std::env::consts::ARCH.to_string() } else { kinds.join(" + ") };
    let board = root.text("/proc/device-tree/model").map(|m| m.trim_end_matches('\0').to_string());
    match board.filter(|b| !b.is_empty()) {
        Some(board) => format!("{cpu} ({board})"),
        None => cpu,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::tests::fake;

    #[test]
    fn reads_what_the_kernel_writes() {
        let (_d, root) = fake(&[
            ("proc/self/status", "VmHWM:\t  100 kB\nRssAnon:\t 60 kB\nRssFile:\t 30 kB\nRssShmem:\t 2 kB\n"),
            ("proc/self/stat", "12 (od) d) x) R 1 2 3 4 5 6 777 8 9 0 150 50 0 0\n"),
            ("proc/self/io", "rchar: 5\nread_bytes: 4096\n"),
            ("proc/self/cgroup", "0::/g\n"),
            ("proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"),
            ("sys/fs/cgroup/g/memory.peak", "12345\n"),
        ]);
        let usage = Usage::read(&root);
        assert_eq!((usage.peak_resident, usage.anonymous), (Some(102_400), Some(61_440)));
        assert_eq!((usage.file, usage.shared), (Some(30_720), Some(2048)));
        assert_eq!((usage.minor_faults, usage.major_faults), (Some(777), Some(9)));
        assert_eq!((usage.storage_read, usage.group_peak), (Some(4096), Some(12_345)));
        assert_eq!(usage.cpu_us, Some(200 * 1_000_000 / rustix::param::clock_ticks_per_second()));
        assert_eq!(usage.since(&usage).major_faults, Some(0));
        assert_eq!(Usage::read(&fake(&[]).1), Usage::default());
    }

    #[test]
    fn this_process() {
        let before = Usage::now();
        let touched = vec![1u8; 32 << 20];
        std::hint::black_box(&touched);
        let after = Usage::now();
        assert!(after.peak_resident.unwrap() >= 32 << 20);
        assert!(after.since(&before).minor_faults.unwrap() > 0);
        println!("{after:?}\n{:?}\n{}", Clock::now(), cpu_name());
    }

    #[test]
    fn of_some_memory() {
        let mut map = memmap2::MmapMut::map_anon(8 << 20).unwrap();
        let range = map.as_ptr() as usize..map.as_ptr() as usize + map.len();
        let Some(before) = resident_in(range.clone()) else { return println!("skipped: no pagemap here") };
        assert!(before < 4 << 20, "{before}");
        map.fill(1);
        assert_eq!(resident_in(range), Some(8 << 20));
    }

    #[test]
    fn clocks_and_throttling() {
        let (_d, root) = fake(&[
            ("sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq", "1500000"),
            ("sys/devices/system/cpu/cpufreq/policy4/scaling_cur_freq", "2400000"),
            ("sys/class/thermal/thermal_zone0/temp", "61234"),
            ("sys/class/thermal/cooling_device0/temp", "99000"),
            ("sys/devices/platform/soc/soc:firmware/get_throttled", "50005"),
        ]);
        let clock = Clock::read(&root);
        assert_eq!((clock.frequency_mhz, clock.celsius), (Some((1500, 2400)), Some(61.234)));
        let all = ["under-voltage", "throttled", "under-voltage has occurred", "throttling has occurred"];
        assert_eq!(clock.throttled.unwrap(), all);
        let (_d, root) =
            fake(&[("sys/class/hwmon/hwmon1/name", "rpi_volt"), ("sys/class/hwmon/hwmon1/in0_lcrit_alarm", "0")]);
        assert_eq!(Clock::read(&root).throttled, Some(vec![]));
        assert_eq!(Clock::read(&fake(&[]).1), Clock::default());
    }

    #[cfg(unix)]
    #[test]
    fn asks_the_firmware() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("vcgencmd");
        let ask = |says: &str| {
            // As the real one, it knows its word by the first argument.
            std::fs::write(&program, format!("#!/bin/sh\n[ \"$1\" = get_throttled ] && {says}\n")).unwrap();
            std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
            let known = Clock { throttled: Some(vec!["by the files"]), ..Clock::default() };
            known.ask(program.as_os_str()).throttled.unwrap()
        };
        // The words that Raspberry Pi's documentation explains.
        assert_eq!(ask("echo throttled=0x0"), [""; 0]);
        let all = ["under-voltage", "throttled", "under-voltage has occurred", "throttling has occurred"];
        assert_eq!(ask("echo throttled=0x50005"), all);
        let heat = ["soft temperature limit", "soft temperature limit was reached"];
        assert_eq!(ask("echo throttled=0x80008"), heat);
        assert_eq!(ask("echo throttled=0xe0000").len(), 3);
        // A Pi that will not say, and no such program: what the files told stays.
        assert_eq!(ask("echo VCHI initialization failed; exit 255"), ["by the files"]);
        assert_eq!(ask("echo 'error=1 error_msg=\"Command not registered\"'"), ["by the files"]);
        let nobody = Clock::default().ask(dir.path().join("missing").as_os_str());
        assert_eq!(nobody.throttled, None);
    }

    #[test]
    fn names_the_processor() {
        let (_d, root) = fake(&[
            ("proc/cpuinfo", "processor : 0\nCPU part\t: 0xd05\nprocessor : 1\nCPU part\t: 0xd0b\nCPU part : 0xfff\n"),
            ("proc/device-tree/model", "Radxa ROCK 5B\0"),
        ]);
        assert_eq!(cpu_name_in(&root), "Arm part 0xfff + Cortex-A55 + Cortex-A76 (Radxa ROCK 5B)");
        let (_d, root) = fake(&[("proc/cpuinfo", "model name\t: Some CPU @ 2 GHz\nmodel name\t: Some CPU @ 2 GHz\n")]);
        assert_eq!(cpu_name_in(&root), "Some CPU @ 2 GHz");
        assert_eq!(cpu_name_in(&fake(&[]).1), std::env::consts::ARCH);
    }
}
