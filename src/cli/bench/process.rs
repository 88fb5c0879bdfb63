//! What Linux tells about a process: CPU time and memory, out of /proc. Elsewhere, and of other
//! users' processes, nothing is known.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

/// A process by its id.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Process(pub u32);

/// CPU time of a process at one moment, by thread: id, name, nanoseconds.
#[derive(Clone, Debug, Default)]
pub struct Cpu(BTreeMap<u32, (String, u64)>);

impl Process {
    /// Whoever listens on this TCP port of this machine.
    pub fn listening_on(port: u16) -> Option<Self> {
        let inode = ["/proc/net/tcp", "/proc/net/tcp6"]
            .iter()
            .find_map(|table| listening_inode(&fs::read_to_string(table).ok()?, port))?;
        let wanted = format!("socket:[{inode}]");
        for entry in fs::read_dir("/proc").ok()?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let Ok(files) = fs::read_dir(entry.path().join("fd")) else { continue };
            let holds = |file: fs::DirEntry| fs::read_link(file.path()).is_ok_and(|link| link.as_os_str() == &*wanted);
            if files.flatten().any(holds) {
                return Some(Self(pid));
            }
        }
        None
    }

    /// This process.
    pub fn own() -> Self {
        Self(std::process::id())
    }

    /// CPU time of its threads until now.
    pub fn cpu(self) -> Option<Cpu> {
        let mut threads = BTreeMap::new();
        for entry in fs::read_dir(format!("/proc/{}/task", self.0)).ok()?.flatten() {
            let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let read = |file: &str| fs::read_to_string(entry.path().join(file)).ok();
            let exact = || read("schedstat")?.split(' ').next()?.parse().ok();
            let Some(nanoseconds) = exact().or_else(|| ticks(&read("stat")?)) else { continue };
            let name = read("comm").unwrap_or_default().trim().to_owned();
            threads.insert(id, (name, nanoseconds));
        }
        (!threads.is_empty()).then_some(Cpu(threads))
    }

    /// Resident memory in KiB, now.
    pub fn rss(self) -> Option<u64> {
        field(&fs::read_to_string(format!("/proc/{}/status", self.0)).ok()?, "VmRSS:")
    }
}

impl Cpu {
    /// Time used since an earlier moment, by thread name.
    pub fn since(&self, earlier: &Self) -> BTreeMap<String, Duration> {
        let mut by_name: BTreeMap<String, Duration> = BTreeMap::new();
        for (id, (name, nanoseconds)) in &self.0 {
            let before = earlier.0.get(id).map_or(0, |(_, nanoseconds)| *nanoseconds);
            *by_name.entry(name.clone()).or_default() += Duration::from_nanos(nanoseconds.saturating_sub(before));
        }
        by_name
    }
}

/// The inode of the socket in state LISTEN (0A) with this local port.
fn listening_inode(table: &str, port: u16) -> Option<u64> {
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, local, _, state, _, _, _, _, _, inode, ..] = fields[..] else { return None };
        let local_port = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
        if state == "0A" && local_port == port { inode.parse().ok() } else { None }
    })
}

/// utime + stime of a `stat` line; a tick is 10 ms on every Linux of today.
fn ticks(stat: &str) -> Option<u64> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(ticks * 10_000_000)
}

fn field(status: &str, name: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix(name)?.split_ascii_whitespace().next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_texts_are_understood() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            \x20  0: 0100007F:1771 0100007F:8000 01 00000000:00000000 00:00000000 00000000     0        0 111 1\n\
            \x20  1: 0100007F:1771 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 222 1\n";
        assert_eq!(listening_inode(table, 6001), Some(222));
        assert_eq!(listening_inode(table, 6002), None);
        assert_eq!(ticks("7 (a) b) S 1 1 1 0 -1 4194560 1 0 0 0 30 12 0 0 20 0"), Some(420_000_000));
        assert_eq!(field("VmPeak:\t  52 kB\nVmRSS:\t  48 kB\n", "VmRSS:"), Some(48));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_is_found_and_uses_time() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let own = Process::listening_on(listener.local_addr().unwrap().port()).unwrap();
        assert_eq!(own, Process::own());
        let before = own.cpu().unwrap();
        let mut spent = Duration::ZERO;
        while spent.is_zero() {
            std::hint::black_box((0..100_000u64).sum::<u64>());
            spent = own.cpu().unwrap().since(&before).values().sum();
        }
        assert!(own.rss().unwrap() > 0);
    }
}
