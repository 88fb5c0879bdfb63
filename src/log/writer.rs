//! The thread that writes, and the queue to it.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use super::ALWAYS;

/// Lines that may wait.
const LINES_MAX: usize = 8 * 1024;

/// A line is cut at so many bytes: what a client sends stands in some.
const LINE_BYTES_MAX: usize = 8 * 1024;

/// Lines that are written in one piece.
const BATCH: usize = 64;

/// How long the end of the process waits for the log.
const FLUSH_WAIT: Duration = Duration::from_secs(1);

/// The way to the writing thread.
pub(super) struct Lines {
    queue: SyncSender<Vec<u8>>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    /// Lines that were put into the queue.
    pushed: AtomicU64,
    /// Those of them that are written or lost.
    done: AtomicU64,
    /// Lines that were lost.
    dropped: AtomicU64,
}

impl Lines {
    /// Starts the thread, which writes to stdout.
    pub fn start() -> io::Result<Self> {
        // As a file: std's stdout keeps what it could not write, and would write it twice.
        let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        Self::start_with(stdout)
    }

    fn start_with(to: impl Write + Send + 'static) -> io::Result<Self> {
        let (queue, lines) = sync_channel(LINES_MAX);
        let counts = Arc::new(Counts::default());
        let known = counts.clone();
        std::thread::Builder::new().name("log".to_owned()).spawn(move || write(&lines, to, &known))?;
        Ok(Self { queue, counts })
    }

    /// Never waits.
    pub fn push(&self, mut line: Vec<u8>) {
        if line.len() > LINE_BYTES_MAX {
            line.truncate(LINE_BYTES_MAX);
            line.extend_from_slice(b"...\n");
        }
        self.counts.pushed.fetch_add(1, Ordering::Relaxed);
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = self.queue.try_send(line) {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
            self.counts.done.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// For the start, when nothing is served yet: waits for room.
    pub fn push_and_wait(&self, text: Vec<u8>) {
        self.counts.pushed.fetch_add(1, Ordering::Relaxed);
        let _ = self.queue.send(text);
    }

    /// Waits until all that was pushed is written or lost, for a moment.
    pub fn flush(&self) {
        let pushed = self.counts.pushed.load(Ordering::Relaxed);
        let start = Instant::now();
        while self.counts.done.load(Ordering::Relaxed) < pushed && start.elapsed() < FLUSH_WAIT {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lines that were lost.
    pub fn dropped(&self) -> u64 {
        self.counts.dropped.load(Ordering::Relaxed)
    }
}

fn write(lines: &Receiver<Vec<u8>>, mut to: impl Write, counts: &Counts) {
    let mut said = 0;
    loop {
        let mut batch = match lines.recv_timeout(Duration::from_secs(1)) {
            Ok(line) => line,
            // What is lost last is told of, too.
            Err(RecvTimeoutError::Timeout) => {
                if counts.dropped.load(Ordering::Relaxed) > said {
                    said = tell(counts, said);
                }
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let mut count = 1;
        while count < BATCH
            && let Ok(line) = lines.try_recv()
        {
            batch.extend_from_slice(&line);
            count += 1;
        }
        let is_written = write_all(&mut to, &batch).is_ok();
        if !is_written {
            counts.dropped.fetch_add(count as u64, Ordering::Relaxed);
        }
        counts.done.fetch_add(count as u64, Ordering::Relaxed);
        if is_written && counts.dropped.load(Ordering::Relaxed) > said {
            said = tell(counts, said);
        }
    }
}

/// The line goes through the queue like others; if it is lost, too, there is a next one.
fn tell(counts: &Counts, said: u64) -> u64 {
    let dropped = counts.dropped.load(Ordering::Relaxed);
    let lost = dropped - said;
    tracing::warn!(target: ALWAYS, "{lost} lines of the log were lost: stdout took none (a full disk, or nobody reads it)");
    dropped
}

fn write_all(to: &mut impl Write, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Somebody else has made this pipe or terminal non-blocking.
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(10)),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::mpsc;

    /// Takes what it is given leave for, and fails when it is told to.
    struct Slow {
        leaves: mpsc::Receiver<bool>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            match self.leaves.recv() {
                Ok(true) => {
                    self.written.lock().unwrap().extend_from_slice(bytes);
                    Ok(bytes.len())
                }
                _ => Err(ErrorKind::StorageFull.into()),
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nobody_waits_for_a_pipe_that_nobody_reads() {
        let (leave, leaves) = mpsc::channel();
        let written = Arc::new(Mutex::new(Vec::new()));
        let lines = Lines::start_with(Slow { leaves, written: written.clone() }).unwrap();
        let start = Instant::now();
        let all = LINES_MAX + BATCH + 100;
        (0..all).for_each(|n| lines.push(format!("{n}\n").into_bytes()));
        assert!(start.elapsed() < Duration::from_secs(5));
        let dropped = lines.dropped();
        assert!((100..=all as u64 - LINES_MAX as u64).contains(&dropped), "{dropped}");
        // A write that fails loses its lines; the next ones are written.
        leave.send(false).unwrap();
        (0..all).for_each(|_| {
            let _ = leave.send(true);
        });
        lines.flush();
        let more = lines.dropped() - dropped;
        assert!((1..=BATCH as u64).contains(&more), "{more}");
        let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count() as u64, all as u64 - lines.dropped());
    }

    #[test]
    fn a_line_has_an_end() {
        let (leave, leaves) = mpsc::channel();
        let written = Arc::new(Mutex::new(Vec::new()));
        let lines = Lines::start_with(Slow { leaves, written: written.clone() }).unwrap();
        leave.send(true).unwrap();
        lines.push(vec![b'x'; 1024 * 1024]);
        lines.flush();
        let written = written.lock().unwrap();
        assert!(written.len() < LINE_BYTES_MAX + 10 && written.ends_with(b"x...\n"));
    }
}
