//! Hand a Rerun recording to the `rrd` daemon: one stream, many outputs, changed at run time, nothing lost.
//!
//! ```no_run
//! # #[cfg(feature = "rerun-0-41")]
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let rec = rerun::RecordingStreamBuilder::new("my_app").buffered()?;
//!     rrd::save(&rec, "run.rrd")?;              // what was logged before is in it, too
//!     rec.log("hello", &rerun::TextLog::new("world"))?;
//!     rrd::save(&rec, "copy.rrd")?;             // adds a file, does not replace the first
//!     rrd::spawn(&rec)?;                        // adds a viewer, which sees everything
//!     rrd::flush(&rec, rrd::Durable::Yes)?;     // all of it is in the files, fsynced
//!     Ok(())
//! }
//! # #[cfg(not(feature = "rerun-0-41"))]
//! # fn main() {}
//! ```
//!
//! The recording's stream goes through a pipe to the daemon, which starts by itself; every function here is a verb
//! said to the daemon, and can as well be said in a shell (`rrd save`, `rrd spawn`, ...), during the run or after it.
//!
//! # What can be relied on
//! - No message is touched: the real SDK encodes, the daemon stores byte by byte.
//! - When the daemon dies, what is logged waits in the pipe and in the SDK until the next one is up (one thread per
//!   process looks after that). When the program dies, all that had left the SDK is in the files.
//! - A daemon that is missing and cannot be started is **no error**: one warning on stderr, and the recording goes on
//!   buffering, as it did before ([`Output::is_attached`] tells). The next verb tries again.
//! - The environment is never changed. When a viewer is the first output, the SDK's low-latency batching is asked for
//!   through its batcher config.
//!
//! # What cannot
//! - Two recordings of one process with the same application and recording id are taken for one.
//! - `rec.save(..)`, `rec.disconnect()` and the like end the stream; the next verb begins a new one.
//! - A forked child must not use its parent's recordings (that is Rerun's rule, too).
//!
//! # Features
//! `rerun-0-36` ... `rerun-0-41`: for that version's `RecordingStream`; any of them together. Other versions work
//! through [`Custom`]. `clap`: the flags of a Rerun program, [`RrdArgs`](clap::RrdArgs).
#![warn(missing_docs)]
#![deny(clippy::undocumented_unsafe_blocks)]

#[cfg(not(target_os = "linux"))]
compile_error!("rrd passes pipes as /proc/self/fd/N: it needs Linux");

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub mod control;
mod error;
mod link;
mod paths;
mod pipe;
mod recording;
mod spill;
mod start;

#[cfg(feature = "clap")]
pub mod clap;

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use error::{BoxError, Error};
pub use pipe::Identity;
pub use recording::{Builder, Custom, Latency, Recording};

use control::Map;
use link::{Link, Stream};

/// How long a verb may take. Starting a viewer takes the longest.
const VERB_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a flush may take: everything that was logged must reach the disk.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(120);

/// What a verb added: where the recording's stream is, and what it goes to.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Output {
    /// Id of the recording's stream, as in `rrd status`. None if there is no daemon, or the recording is disabled.
    pub stream: Option<String>,
    /// Id of the new output, for [`detach`].
    pub sink: Option<String>,
    /// Where it can be seen, if it is something to look at.
    pub url: Option<String>,
}

impl Output {
    /// Whether the recording is in the daemon's hands, and not just buffering in the SDK.
    pub fn is_attached(&self) -> bool {
        self.stream.is_some()
    }
}

/// How [`save_with`] treats what it finds.
#[derive(Clone, Copy, Debug, Default)]
pub struct SaveOptions {
    /// Overwrite an existing file.
    pub force: bool,
    /// Make an independent file, even where a hard link to the daemon's log would do.
    pub copy: bool,
    /// Only what was logged in the last so long until now, with what has no time of before: the file is complete soon,
    /// and does not grow.
    pub last: Option<Duration>,
}

/// What [`spawn_with`] starts. All optional: the daemon finds a viewer that is running, or starts the installed one.
#[derive(Clone, Debug, Default)]
pub struct SpawnOptions {
    /// Start a viewer even if one is running.
    pub new: bool,
    /// Port that it listens on.
    pub port: Option<u16>,
    /// The viewer's program.
    pub executable: Option<PathBuf>,
    /// Memory at which the viewer drops the oldest data: "75%", "4GB".
    pub memory_limit: Option<String>,
    /// Without a window.
    pub headless: bool,
}

/// How [`serve_with`] serves. All optional.
#[derive(Clone, Debug, Default)]
pub struct ServeOptions {
    /// Port of the web page.
    pub port: Option<u16>,
    /// Address to listen on; loopback by default.
    pub bind: Option<String>,
    /// Whether to open the browser.
    pub open_browser: Option<bool>,
}

/// Whether [`flush`] waits for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durable {
    /// Return when everything is in the daemon's log.
    No,
    /// Return when everything is in the log and in the files, fsynced.
    Yes,
}

/// Stream a recording into the daemon, with no output yet: `rrd save` and the like may come later, from anywhere.
///
/// # Errors
/// [`Error::Verb`]: the daemon refused. [`Error::Sdk`]: the SDK could not save to the pipe.
pub fn attach(rec: &impl Recording) -> Result<Output, Error> {
    Ok(opened(rec, Latency::File)?.map(of_stream).unwrap_or_default())
}

/// Write a recording to a file: everything since it began, until it ends or is [`detach`]ed.
///
/// # Errors
/// [`Error::Verb`]: the daemon refused, as with code `exists` where there is a file already.
pub fn save(rec: &impl Recording, path: impl AsRef<Path>) -> Result<Output, Error> {
    save_with(rec, path, SaveOptions::default())
}

/// As [`save`], with options.
///
/// # Errors
/// As [`save`].
pub fn save_with(rec: &impl Recording, path: impl AsRef<Path>, options: SaveOptions) -> Result<Output, Error> {
    let path = std::path::absolute(path.as_ref()).map_err(|error| Error::Sdk(error.into()))?;
    let path = path.into_os_string().into_string().map_err(|path| Error::Verb {
        code: "usage".to_owned(),
        message: format!("the file's name is not UTF-8: {}", Path::new(&path).display()),
        hint: String::new(),
    })?;
    if options.last.is_some() {
        attach(rec)?;
        flush(rec, Durable::No)?; // what is on its way is the newest
    }
    add(rec, Latency::File, "save", |stream| {
        Map::new()
            .with("path", path)
            .with("stream", stream)
            .with("force", options.force)
            .with("copy", options.copy)
            .with_some("last", options.last.map(|last| last.as_secs_f64()))
    })
}

/// Show a recording in a viewer: one that is running, else a new one.
///
/// # Errors
/// [`Error::Verb`]: none is installed, or it did not start.
pub fn spawn(rec: &impl Recording) -> Result<Output, Error> {
    spawn_with(rec, &SpawnOptions::default())
}

/// As [`spawn`], with options.
///
/// # Errors
/// As [`spawn`].
pub fn spawn_with(rec: &impl Recording, options: &SpawnOptions) -> Result<Output, Error> {
    add(rec, Latency::Viewer, "spawn", |stream| {
        let executable = options.executable.as_ref().map(|path| path.to_string_lossy().into_owned());
        of_source(stream)
            .with("new", options.new)
            .with("headless", options.headless)
            .with_some("port", options.port)
            .with_some("executable", executable)
            .with_some("memory_limit", options.memory_limit.as_deref())
    })
}

/// Feed a viewer that runs elsewhere, such as `rerun+http://127.0.0.1:9876/proxy`.
///
/// # Errors
/// [`Error::Verb`]: the URL is none.
pub fn connect(rec: &impl Recording, url: &str) -> Result<Output, Error> {
    add(rec, Latency::Viewer, "connect", |stream| of_source(stream).with("url", url))
}

/// Serve a recording to browsers. [`Output::url`] is the page.
///
/// # Errors
/// [`Error::Verb`]: the port is taken, or no web viewer is installed.
pub fn serve(rec: &impl Recording) -> Result<Output, Error> {
    serve_with(rec, &ServeOptions::default())
}

/// As [`serve`], with options.
///
/// # Errors
/// As [`serve`].
pub fn serve_with(rec: &impl Recording, options: &ServeOptions) -> Result<Output, Error> {
    add(rec, Latency::Viewer, "serve", |stream| {
        of_source(stream)
            .with_some("port", options.port)
            .with_some("bind", options.bind.as_deref())
            .with_some("open", options.open_browser)
    })
}

/// Write a recording to standard output, from the SDK itself: the daemon has no part in it.
///
/// # Errors
/// [`Error::Verb`] with code `refused`: the recording is attached already; `rrd tail` in a shell writes it to stdout.
pub fn stdout(rec: &impl Recording) -> Result<(), Error> {
    let Some(identity) = rec.identity() else { return Ok(()) };
    if Link::get().stream_of(&identity).is_some() {
        return Err(Error::Verb {
            code: "refused".to_owned(),
            message: "the recording is in the daemon's hands, stdout would end that".to_owned(),
            hint: format!("in a shell: rrd tail -f {}", identity.recording_id),
        });
    }
    rec.log_to_stdout().map_err(Error::Sdk)
}

/// Return when all that was logged before is in the daemon's log, or in the files, too.
///
/// Without a daemon it returns at once.
///
/// # Errors
/// [`Error::Sdk`]: the SDK could not write it out. [`Error::Verb`]: the daemon could not, as with a full disk.
/// [`Error::Unavailable`]: the daemon did not say within two minutes that it has.
pub fn flush(rec: &impl Recording, durable: Durable) -> Result<(), Error> {
    let link = Link::get();
    let Some(stream) = rec.identity().and_then(|identity| link.stream_of(&identity)) else { return Ok(()) };
    rec.flush_out(FLUSH_TIMEOUT).map_err(Error::Sdk)?;
    let streams = ciborium::Value::Array(vec![stream.id.as_str().into()]);
    let args = Map::new().with("streams", streams).with("durable", durable == Durable::Yes);
    link.request("sync", &args, &[], FLUSH_TIMEOUT).map(drop)
}

/// Remove an output, by the id in [`Output::sink`]. Its file is completed.
///
/// # Errors
/// [`Error::Verb`] with code `not-found`: there is no such output.
pub fn detach(sink: &str) -> Result<(), Error> {
    Link::get().request("detach", &Map::new().with("sink", sink), &[], VERB_TIMEOUT).map(drop)
}

/// Say any verb of the control protocol.
///
/// # Errors
/// As the verb says; [`Error::Unavailable`] if there is no daemon.
pub fn request(verb: &str, args: &Map, descriptors: &[BorrowedFd<'_>]) -> Result<Map, Error> {
    Link::get().request(verb, args, descriptors, VERB_TIMEOUT)
}

fn of_stream(stream: impl AsRef<Stream>) -> Output {
    Output { stream: Some(stream.as_ref().id.clone()), ..Output::default() }
}

fn of_source(stream: &str) -> Map {
    let source = ciborium::Value::Array(vec![format!("stream:{stream}").into()]);
    Map::new().with("stream", stream).with("source", source)
}

/// The recording's stream; opens it if there is none. None: no daemon (and the user knows), or a disabled recording.
fn opened(rec: &impl Recording, latency: Latency) -> Result<Option<std::sync::Arc<Stream>>, Error> {
    let Some(identity) = rec.identity() else { return Ok(None) };
    let link = Link::get();
    match link.open(&identity, |path| rec.save_to(path, latency)) {
        Ok(stream) => Ok(Some(stream)),
        Err(error) if error.is_no_daemon() => {
            link.warn_no_daemon(&error);
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn add(rec: &impl Recording, latency: Latency, verb: &str, args: impl FnOnce(&str) -> Map) -> Result<Output, Error> {
    let Some(stream) = opened(rec, latency)? else { return Ok(Output::default()) };
    let result = Link::get().request(verb, &args(&stream.id), &[], VERB_TIMEOUT)?;
    let sink = result.map("sink");
    let id = sink.as_ref().and_then(|sink| sink.text("id")).or_else(|| result.text("sink"));
    let viewer = result.map("viewer");
    let url = result.text("url").or_else(|| viewer.as_ref().and_then(|viewer| viewer.text("url")));
    if let Some(warning) = result.text("warning").filter(|warning| !warning.is_empty()) {
        link::warn(warning);
    }
    Ok(Output { sink: id.map(str::to_owned), url: url.map(str::to_owned), ..of_stream(stream) })
}
