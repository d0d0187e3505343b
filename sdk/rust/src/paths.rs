//! Where the daemon's socket and its files are. The same rules as in the daemon (daemon/paths.py).
//!
//! XDG variables are honoured, so several daemons can live apart; a directory of somebody else is refused.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::Error;

/// `sun_path` holds 108 bytes with its final NUL (unix(7)).
const MAX_SOCKET_PATH: usize = 107;

/// Directory of the control socket and the locks: `$XDG_RUNTIME_DIR/rrd`, else a private one in the temp dir.
pub fn runtime_dir() -> PathBuf {
    match set("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|base| base.is_dir()) {
        Some(base) => base.join("rrd"),
        None => temp_dir().join(format!("rrd-{}", rustix::process::getuid().as_raw())),
    }
}

/// Path of the control socket.
pub fn socket_path() -> Result<PathBuf, Error> {
    let path = runtime_dir().join("control.sock");
    let length = path.as_os_str().len();
    if length > MAX_SOCKET_PATH {
        return Err(Error::unavailable(
            format!("socket path is {length} bytes long, at most {MAX_SOCKET_PATH} are possible: {}", path.display()),
            "set XDG_RUNTIME_DIR to a shorter directory",
        ));
    }
    Ok(path)
}

/// Path of the second control socket, beside the recordings; `None` without a place for it, or if it would be too long.
///
/// A runtime directory is a login session's: programs of another (cron, su) find the daemon there.
pub fn spare_socket_path() -> Option<PathBuf> {
    let path = state_dir().ok()?.join("daemon.sock");
    Some(path).filter(|path| path.as_os_str().len() <= MAX_SOCKET_PATH)
}

/// Path of the daemon's own log (text): where a daemon that this process starts writes to.
pub fn daemon_log_path() -> Result<PathBuf, Error> {
    Ok(state_dir()?.join("daemon.log"))
}

fn state_dir() -> Result<PathBuf, Error> {
    if let Some(base) = set("XDG_STATE_HOME").map(PathBuf::from).filter(|base| base.is_absolute()) {
        return Ok(base.join("rrd"));
    }
    // As Python's expanduser finds it: an empty one is the root, without one the system's list of users is asked.
    #[allow(deprecated, reason = "only of Windows was it ever wrong")]
    let home = env::home_dir().map(|home| if home.as_os_str().is_empty() { "/".into() } else { home });
    // A uid without a name, in a container, has none.
    let home = home.filter(|home| home.is_absolute()).ok_or_else(|| {
        Error::unavailable("HOME is not set and this user has no home directory", "set HOME, or XDG_STATE_HOME")
    })?;
    Ok(home.join(".local/state/rrd"))
}

/// Make a directory that only its owner can enter, or check that it is one.
pub fn make_private(path: &Path) -> Result<(), Error> {
    let failed = |error: io::Error| {
        Error::unavailable(
            format!("cannot make directory: {error}: {}", path.display()),
            "check the directory above it",
        )
    };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    let found = fs::symlink_metadata(path).map_err(failed)?;
    if !found.is_dir() {
        return Err(Error::unavailable(format!("not a directory: {}", path.display()), "remove it"));
    }
    if found.uid() != rustix::process::getuid().as_raw() {
        return Err(Error::unavailable(
            format!("directory belongs to uid {}, not to you: {}", found.uid(), path.display()),
            "set XDG_RUNTIME_DIR",
        ));
    }
    if found.mode() & 0o077 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(failed)?;
    }
    Ok(())
}

fn set(variable: &str) -> Option<OsString> {
    env::var_os(variable).filter(|value| !value.is_empty())
}

/// As Python's tempfile.gettempdir chooses it, since the daemon may be started by either.
fn temp_dir() -> PathBuf {
    let named = ["TMPDIR", "TEMP", "TMP"].iter().filter_map(|name| set(name)).map(PathBuf::from);
    let usual = ["/tmp", "/var/tmp", "/usr/tmp"].iter().map(PathBuf::from);
    named.chain(usual).find(|path| path.is_dir()).unwrap_or_else(|| ".".into())
}
