//! A connection to the daemon, which is started if it is not there.
//!
//! Rules: many programs may come at once, so starting is done under a lock, and whoever gets it tries to
//! connect once more first; the keeper listens before the daemon is up, so a connection that is made only
//! waits for its first answer; what is started is detached and outlives this process.

use std::env;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{access, flock, Access, FlockOperation};
use rustix::io::Errno;
use rustix::process::{test_kill_process, Pid};

use crate::{paths, Error};

/// How long a daemon may take to listen, and another program to start one.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// A daemon that ends may have found another one that is just starting: look a little longer.
const GONE_GRACE: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(20);

/// Connect to the daemon if it is there: at the session's socket, else at the one beside the recordings.
pub fn connect() -> Result<Option<UnixStream>, Error> {
    let found = connect_at(&paths::socket_path()?)?;
    match paths::spare_socket_path() {
        Some(spare) if found.is_none() => connect_at(&spare),
        _ => Ok(found),
    }
}

fn connect_at(path: &Path) -> Result<Option<UnixStream>, Error> {
    match UnixStream::connect(path) {
        Ok(socket) => match rustix::net::sockopt::socket_peercred(&socket) {
            Ok(peer) if peer.uid != rustix::process::getuid() => Err(Error::unavailable(
                format!("the daemon's socket belongs to uid {}, not to you", peer.uid.as_raw()),
                "set XDG_RUNTIME_DIR",
            )),
            _ => Ok(Some(socket)),
        },
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => Ok(None),
        Err(error) => Err(Error::unavailable(format!("cannot connect to the daemon: {error}: {}", path.display()), "")),
    }
}

/// Connect to the daemon; start it if it is not there.
pub fn connect_or_start() -> Result<UnixStream, Error> {
    if let Some(socket) = connect()? {
        return Ok(socket);
    }
    let _lock = lock()?;
    if let Some(socket) = connect()? {
        return Ok(socket);
    }
    let daemon = spawn()?;
    let deadline = Instant::now() + START_TIMEOUT;
    let mut gone_since = None;
    loop {
        if let Some(socket) = connect()? {
            return Ok(socket);
        }
        let now = Instant::now();
        if gone_since.is_none() && test_kill_process(daemon) == Err(Errno::SRCH) {
            gone_since = Some(now);
        }
        let failure = if gone_since.is_some_and(|since| now > since + GONE_GRACE) {
            "the daemon ended as soon as it was started".to_owned()
        } else if now > deadline {
            format!("the daemon was started, but does not listen after {} s", START_TIMEOUT.as_secs())
        } else {
            sleep(POLL);
            continue;
        };
        return Err(Error::unavailable(failure, format!("see {}", paths::daemon_log_path()?.display())));
    }
}

fn lock() -> Result<File, Error> {
    let dir = paths::runtime_dir();
    paths::make_private(&dir)?;
    let path = dir.join("start.lock");
    let failed = |error: io::Error| Error::unavailable(format!("cannot lock: {error}: {}", path.display()), "");
    // A loser of the race waits here: what the winner starts is as good.
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(failed)?;
    let deadline = Instant::now() + START_TIMEOUT + Duration::from_secs(2);
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < deadline => sleep(POLL),
            Err(error) => return Err(failed(error.into())),
        }
    }
}

fn spawn() -> Result<Pid, Error> {
    let program = daemon_program()?;
    let log_path = paths::daemon_log_path()?;
    let failed =
        |error: io::Error| Error::unavailable(format!("cannot start the daemon: {error}: {}", program.display()), "");
    if let Some(dir) = log_path.parent() {
        paths::make_private(dir)?;
    }
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(&log_path);
    let log = log.map_err(|error| Error::unavailable(format!("cannot write: {error}: {}", log_path.display()), ""))?;
    // The shell leaves at once, so the daemon becomes nobody's child (a program's own wait() must not meet it);
    // it says the daemon's process id first.
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", r#""$@" </dev/null >&2 & echo $!"#, "rrd-daemon"]).arg(&program);
    shell.current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    // SAFETY: setsid(2) is async-signal-safe and touches no memory of this process.
    unsafe {
        shell.pre_exec(|| rustix::process::setsid().map(drop).map_err(io::Error::from));
    }
    let said = shell.output().map_err(failed)?;
    let pid = String::from_utf8_lossy(&said.stdout).trim().parse().ok().and_then(Pid::from_raw);
    pid.ok_or_else(|| failed(io::Error::other("the shell that should start it failed")))
}

/// `$RRD_DAEMON`, else `rrd-daemon` on PATH.
fn daemon_program() -> Result<PathBuf, Error> {
    let runs = |path: &PathBuf| access(path, Access::EXEC_OK).is_ok() && path.is_file();
    if let Some(chosen) = env::var_os("RRD_DAEMON").filter(|name| !name.is_empty()).map(PathBuf::from) {
        let refused = || format!("cannot start the daemon: not an executable file: {}", chosen.display());
        return if runs(&chosen) { Ok(chosen) } else { Err(Error::unavailable(refused(), "RRD_DAEMON says so")) };
    }
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).map(|dir| dir.join("rrd-daemon")).find(runs).ok_or_else(|| {
        Error::unavailable(
            "cannot start the daemon: rrd-daemon not found",
            "install it (pip install rrd-cli), or set RRD_DAEMON to its path",
        )
    })
}
