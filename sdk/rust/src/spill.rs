//! What is done with the pipes while there is neither daemon nor keeper: their bytes are appended to the logs.
//!
//! A log is a verbatim stream, so the next daemon finds everything where it looks for it, and goes on behind it.
//!
//! Rules: only with the keeper's own lock in hand, which proves that nobody else reads the pipes or writes the logs (it
//! lies beside the logs, whatever session keeper and program are of), and with the one under which a daemon is started, so
//! that whoever wants to start one waits; a log is never made, only continued; what a log does not take stays in its pipe.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{flock, FlockOperation};

use crate::link::Stream;
use crate::paths;

/// The locks are held at most this long in one go: a keeper may want to start.
const SLICE: Duration = Duration::from_millis(50);
const PIECE: usize = 1 << 16;

/// Move what is in the pipes to their logs, if nobody else can. Returns the number of bytes moved.
pub fn spill(streams: &[Arc<Stream>]) -> u64 {
    let Some(waiting) = streams.iter().find(|stream| stream.pipe.unread() > 0) else { return 0 };
    let Some(_locks) = nobody_home(&waiting.log) else { return 0 };
    let until = Instant::now() + SLICE;
    let mut logs: Vec<_> = streams.iter().filter_map(|stream| Some((stream, log_of(stream)?))).collect();
    let mut total = 0;
    loop {
        let before = total;
        logs.retain_mut(|(stream, log)| match step(stream, log) {
            Ok(moved) => {
                total += moved;
                true
            }
            // What was read and not written is lost; a gap makes all that follows unreadable, so the log ends here.
            Err(error) => {
                stream.broken(&error);
                false
            }
        });
        if total == before || Instant::now() > until {
            return total;
        }
    }
}

/// The locks of starting and of keeping a daemon, if nobody has either; the keeper is the one of a log's spool.
fn nobody_home(log: &Path) -> Option<[File; 2]> {
    let locked = |path: PathBuf| {
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path).ok()?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
        Some(file)
    };
    let start = locked(paths::runtime_dir().join("start.lock"))?;
    let state = log.ancestors().nth(2)?; // .../spool/<stream>.rrd
    let keeper = locked(state.join("keeper.lock"))?;
    // A keeper writes its process id there, and that is not ours.
    keeper.set_len(0).ok()?;
    Some([start, keeper])
}

fn log_of(stream: &Stream) -> Option<File> {
    if stream.is_broken() {
        return None;
    }
    OpenOptions::new().append(true).open(&stream.log).ok()
}

fn step(stream: &Stream, log: &mut File) -> io::Result<u64> {
    let waiting = usize::try_from(stream.pipe.unread()).unwrap_or(PIECE).min(PIECE);
    if waiting == 0 {
        return Ok(0);
    }
    let mut piece = vec![0; waiting];
    let count = stream.pipe.reader()?.read(&mut piece)?;
    log.write_all(&piece[..count])?;
    Ok(count as u64)
}
