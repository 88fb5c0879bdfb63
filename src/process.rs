//! What the kernel says of this process. Where it says nothing, as on systems that are not Linux, it is 0.

use std::fs;
use std::time::Duration;

use rustix::process::{Resource, getrlimit};

/// How many of these `/proc/self/stat` counts in a second; the kernel's interface says 100 on every machine.
const TICKS_PER_SECOND: u64 = 100;

/// What the process uses.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Memory in RAM, in bytes.
    pub resident_bytes: u64,
    /// Files and sockets.
    pub open_files: u64,
    /// How many of these there may be; 0: any number.
    pub files_max: u64,
    /// Time of all threads.
    pub cpu: Duration,
}

impl Usage {
    /// As of now. Reads files, and for some time if many are open.
    pub fn now() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident_kib = resident.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
        // The directory that is read is open, too.
        let open_files = fs::read_dir("/proc/self/fd").map_or(0, |files| files.count().saturating_sub(1) as u64);
        Self {
            resident_bytes: resident_kib.unwrap_or(0) * 1024,
            open_files,
            files_max: getrlimit(Resource::Nofile).current.unwrap_or(0),
            cpu: cpu(&fs::read_to_string("/proc/self/stat").unwrap_or_default()).unwrap_or_default(),
        }
    }
}

/// The 14th and the 15th field; the second, the name, stands in brackets and may hold anything.
fn cpu(stat: &str) -> Option<Duration> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_behind_any_name() {
        let stat = "12 (a) b) S 1 2 3 4 5 6 7 8 9 10 150 75 0 0 20";
        assert_eq!(cpu(stat), Some(Duration::from_millis(2250)));
        assert_eq!(cpu(""), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_process_uses_something() {
        let usage = Usage::now();
        assert!(usage.resident_bytes > 1024 * 1024 && usage.open_files >= 3 && usage.files_max >= 3, "{usage:?}");
    }
}
