//! What this process takes of the machine. The operating system's numbers, unsmoothed; absent where it tells none.

use std::time::Duration;

/// Memory and processor time of the whole process, of which the server may be a part only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProcessUsage {
    /// Resident memory in bytes, from `/proc/self/status`; `None` where there is none (everywhere but Linux).
    pub memory_bytes: Option<u64>,
    /// Processor time used since the start of the process, by all its threads; `None` where it is not told.
    pub cpu: Option<Duration>,
}

impl ProcessUsage {
    /// Asks the system. Some ten microseconds, a file read among them.
    pub fn now() -> Self {
        Self { memory_bytes: resident_bytes(), cpu: cpu_time() }
    }
}

#[cfg(target_os = "linux")]
fn resident_bytes() -> Option<u64> {
    parse_resident(&std::fs::read_to_string("/proc/self/status").ok()?)
}

#[cfg(not(target_os = "linux"))]
fn resident_bytes() -> Option<u64> {
    None
}

/// The line `VmRSS:     1234 kB` (proc_pid_status(5)); kB is 1024 bytes.
#[cfg(any(target_os = "linux", test))]
fn parse_resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(unix)]
fn cpu_time() -> Option<Duration> {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Some(Duration::new(time.tv_sec.try_into().ok()?, time.tv_nsec.try_into().ok()?))
}

#[cfg(not(unix))]
fn cpu_time() -> Option<Duration> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resident_size_is_read_in_kibibytes() {
        assert_eq!(parse_resident("Name:\tx\nVmRSS:\t    1234 kB\nRssAnon: 5 kB\n"), Some(1234 * 1024));
        assert_eq!(parse_resident("Name:\tx\n"), None);
        assert_eq!(parse_resident("VmRSS:\tmuch\n"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_takes_memory_and_time() {
        let usage = ProcessUsage::now();
        assert!(usage.memory_bytes.is_some_and(|bytes| bytes > 100_000), "{usage:?}");
        assert!(usage.cpu.is_some_and(|cpu| !cpu.is_zero()), "{usage:?}");
    }
}
