//! The one connection of this process to the daemon, and the one thread that watches it.
//!
//! ```text
//!           verb                 end of file, streams are open
//!   Down ────────> Up ──────────────────────────────> Busy ──> Up      every stream is opened again, by its id
//!    ^             │ end of file, no stream            │ nobody listens for RESTART_AFTER: start a daemon, once,
//!    └─────────────┴────────── streams have ended ─────┘ unless it was stopped on purpose; else spill to the logs
//! ```
//!
//! Rules: the thread that says a verb connects, so that it hears why that failed; from then on the watcher reads,
//! hands answers to those who wait for them, and connects again when the daemon dies. A verb said meanwhile waits.
//! Whatever happens, the program goes on: a pipe that nobody reads is emptied here, never closed under the SDK.
//! A forked child has a link of its own, and leaves its parent's streams alone. No wake-ups while all is well.

use std::collections::HashMap;
use std::io::{IoSlice, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::net::{sendmsg, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use crate::control::{self, Decoder, Map};
use crate::pipe::{Identity, Pipe};
use crate::{spill, start, Error};

/// How long the daemon may take for its first answer: a keeper listens while the daemon is being started again.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a verb waits for a daemon that is being connected to again.
const RECONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// After a daemon could not be had, verbs do not try to start one, or wait for one that hangs, for this long: each
/// try may take ten seconds of the program's time. One that is there is found all the same.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(30);
/// How long one that hung may take then.
const SHORT_TIMEOUT: Duration = Duration::from_millis(200);
/// With nobody listening for this long the keeper must be dead, too: it needs a second at most.
const RESTART_AFTER: Duration = Duration::from_secs(2);
/// The longest pause between two attempts to reach the daemon again.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the end of the program may take to find a home for what is still in the pipes.
const EXIT_TIMEOUT: Duration = Duration::from_secs(10);
/// A request that the daemon died under is said again this often.
const ATTEMPTS: usize = 5;

const AGENT: &str = concat!("rrd-rust ", env!("CARGO_PKG_VERSION"));

/// A stream that the daemon has opened.
#[derive(Debug)]
pub struct Stream {
    pub id: String,
    pub identity: Identity,
    pub pipe: Arc<Pipe>,
    pub log: PathBuf,
    broken: AtomicBool,
}

impl Stream {
    /// Whether its log has lost bytes, and so can take no more.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// Its log cannot be continued.
    pub fn broken(&self, error: &std::io::Error) {
        if !self.broken.swap(true, Ordering::Relaxed) {
            warn(&format!("there is no daemon, and its log cannot be written: {error}: {}", self.log.display()));
        }
    }
}

/// The process's link to the daemon.
pub struct Link {
    pid: u32,
    state: Mutex<State>,
    changed: Condvar,
    opening: Mutex<()>,
    warned: AtomicBool,
}

#[derive(Default)]
struct State {
    phase: Phase,
    socket: Option<Arc<UnixStream>>,
    waiting: HashMap<u64, Waiting>,
    last_id: u64,
    streams: Vec<Arc<Stream>>,
    /// The daemon said that it was told to stop.
    stopping: bool,
    /// Somebody waits for a connection, so a daemon is to be started even if one was stopped.
    wanted: bool,
    /// When, and why, no daemon could be had.
    failed: Option<(Instant, String, String)>,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Phase {
    #[default]
    Down,
    Busy,
    Up,
}

struct Waiting {
    answer: Sender<Result<Map, Error>>,
    /// What becomes a stream the moment the daemon says that it opened it.
    opening: Option<(Identity, Arc<Pipe>)>,
}

/// Why a request got no answer.
enum Unanswered {
    Lost,
    Final(Error),
}

impl Link {
    /// The link of this process; a forked child gets one of its own.
    pub fn get() -> &'static Self {
        static CURRENT: AtomicPtr<Link> = AtomicPtr::new(std::ptr::null_mut());
        let pid = std::process::id();
        let mut found = CURRENT.load(Ordering::Acquire);
        loop {
            // SAFETY: the pointer is null or comes from Box::leak below, so it is valid for ever.
            if let Some(link) = unsafe { found.cast_const().as_ref() } {
                if link.pid == pid {
                    return link;
                }
            }
            // The parent's link is leaked, not dropped: its locks may be held by threads that this child does not have.
            let fresh = Box::into_raw(Box::new(Self::new(pid)));
            match CURRENT.compare_exchange(found, fresh, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    at_exit();
                    // SAFETY: just made, and never freed.
                    return unsafe { &*fresh };
                }
                Err(other) => {
                    // SAFETY: nobody else has seen it.
                    drop(unsafe { Box::from_raw(fresh) });
                    found = other;
                }
            }
        }
    }

    fn new(pid: u32) -> Self {
        Self {
            pid,
            state: Mutex::default(),
            changed: Condvar::new(),
            opening: Mutex::new(()),
            warned: AtomicBool::new(false),
        }
    }

    /// Say once on stderr that there is no daemon, and what that means.
    pub fn warn_no_daemon(&self, error: &Error) {
        if !self.warned.swap(true, Ordering::Relaxed) {
            warn(&format!("{error}; the recording goes on buffering in the SDK"));
        }
    }

    /// Say a verb and wait for its result.
    ///
    /// If the daemon dies under it, it is said again to the next one. `descriptors` ride along.
    pub fn request(
        &'static self,
        verb: &str,
        args: &Map,
        descriptors: &[BorrowedFd<'_>],
        timeout: Duration,
    ) -> Result<Map, Error> {
        let deadline = Instant::now() + timeout;
        for attempt in 0..ATTEMPTS {
            match self.try_request(verb, args, descriptors, deadline, None) {
                Err(Unanswered::Lost) => {}
                Err(Unanswered::Final(error)) if attempt > 0 && error.code() == Some("exists") => {
                    return self.own_sink(args).ok_or(error);
                }
                Err(Unanswered::Final(error)) => return Err(error),
                Ok(result) => return Ok(result),
            }
        }
        Err(Error::unavailable(
            format!("the daemon went away {ATTEMPTS} times during `{verb}`"),
            "see `rrd daemon logs`",
        ))
    }

    /// A `save` that is said again may meet the sink of the first time: then that one is the answer.
    fn own_sink(&'static self, args: &Map) -> Option<Map> {
        let deadline = Instant::now() + HELLO_TIMEOUT;
        let status = self.try_request("status", &Map::new(), &[], deadline, None).ok()?;
        let mine = |sink: &Map| sink.text("target").is_some() && sink.text("target") == args.text("path");
        status.maps("sinks").into_iter().find(mine).map(|sink| Map::new().with("sink", sink))
    }

    /// Open a stream with the daemon, unless the recording has one already.
    ///
    /// `save` is given the path that the SDK is to save to.
    pub fn open(
        &'static self,
        identity: &Identity,
        save: impl FnOnce(&std::path::Path) -> Result<(), crate::BoxError>,
    ) -> Result<Arc<Stream>, Error> {
        let _one_at_a_time = self.opening.lock().unwrap_or_else(|broken| broken.into_inner());
        if let Some(stream) = self.stream_of(identity) {
            return Ok(stream);
        }
        let stream = self.open_stream(identity)?;
        let path = stream.pipe.path().unwrap_or_default();
        if let Err(error) = save(&path) {
            self.lock().streams.retain(|other| !Arc::ptr_eq(other, &stream));
            let close = Map::new().with("stream", stream.id.as_str());
            // The stream never began: the daemon would find that out by itself at the pipe's end.
            let _ = self.request("close", &close, &[], HELLO_TIMEOUT);
            return Err(Error::Sdk(error));
        }
        Ok(stream)
    }

    /// The stream of a recording whose SDK sink is still alive.
    pub fn stream_of(&self, identity: &Identity) -> Option<Arc<Stream>> {
        let found: Vec<_> = {
            let state = self.lock();
            state.streams.iter().filter(|stream| stream.identity == *identity).cloned().collect()
        };
        found.into_iter().find(|stream| stream.pipe.in_use())
    }

    fn open_stream(&'static self, identity: &Identity) -> Result<Arc<Stream>, Error> {
        for _ in 0..ATTEMPTS {
            // A fresh pipe each time: a daemon that died may have kept the last one's read end.
            let pipe = Pipe::new().map_err(|error| Error::unavailable(format!("cannot make a pipe: {error}"), ""))?;
            let pipe = Arc::new(pipe);
            let deadline = Instant::now() + HELLO_TIMEOUT;
            let args = open_args(identity, None);
            let opening = Some((identity.clone(), Arc::clone(&pipe)));
            match self.try_request("open", &args, &[pipe.read_end()], deadline, opening) {
                Err(Unanswered::Lost) => {}
                Err(Unanswered::Final(error)) => return Err(error),
                Ok(_) => {
                    let state = self.lock();
                    let stream = state.streams.iter().find(|stream| Arc::ptr_eq(&stream.pipe, &pipe));
                    return stream
                        .cloned()
                        .ok_or_else(|| Error::unavailable("the daemon ended the stream at once", ""));
                }
            }
        }
        Err(Error::unavailable(format!("the daemon went away {ATTEMPTS} times during `open`"), "see `rrd daemon logs`"))
    }

    fn try_request(
        &'static self,
        verb: &str,
        args: &Map,
        descriptors: &[BorrowedFd<'_>],
        deadline: Instant,
        opening: Option<(Identity, Arc<Pipe>)>,
    ) -> Result<Map, Unanswered> {
        let (answer, answers) = mpsc::channel();
        let id = {
            let mut state = self.connected().map_err(Unanswered::Final)?;
            state.last_id += 1;
            let id = state.last_id;
            let message = control::encode(control::request(id, verb, args.clone())).map_err(Unanswered::Final)?;
            state.waiting.insert(id, Waiting { answer, opening });
            let socket = state.socket.clone().ok_or(Unanswered::Lost)?;
            // Sent under the lock, so that messages do not interleave; they are small, and the socket has a time limit.
            if send(&socket, &message, descriptors).is_err() {
                // The watcher sees it too, and connects again.
                let _ = socket.shutdown(std::net::Shutdown::Both);
            }
            id
        };
        match answers.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            // Said instead of doing it: the next daemon will.
            Ok(Err(error)) if error.code() == Some("stopping") => {
                thread::sleep(Duration::from_millis(50));
                Err(Unanswered::Lost)
            }
            Ok(result) => result.map_err(Unanswered::Final),
            Err(RecvTimeoutError::Disconnected) => Err(Unanswered::Lost),
            Err(RecvTimeoutError::Timeout) => {
                self.lock().waiting.remove(&id);
                let error = Error::unavailable(format!("the daemon does not answer `{verb}`"), "see `rrd daemon logs`");
                Err(Unanswered::Final(error))
            }
        }
    }

    /// The state while there is a connection; makes one if there is none.
    fn connected(&'static self) -> Result<MutexGuard<'static, State>, Error> {
        let deadline = Instant::now() + RECONNECT_TIMEOUT;
        let mut state = self.lock();
        loop {
            match state.phase {
                Phase::Up => return Ok(state),
                Phase::Busy => {
                    if let Some(error) = state.recent_failure() {
                        return Err(error);
                    }
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(Error::unavailable("the daemon has gone away", "start it: rrd daemon start"));
                    }
                    state.wanted = true;
                    self.changed.notify_all();
                    state = self.changed.wait_timeout(state, left).unwrap_or_else(|broken| broken.into_inner()).0;
                }
                Phase::Down => {
                    state.phase = Phase::Busy;
                    let failure = state.recent_failure();
                    drop(state);
                    let made = establish(failure);
                    state = self.lock();
                    state.phase = Phase::Down;
                    state.note(&made);
                    self.changed.notify_all();
                    let (socket, decoder) = made?;
                    self.watch(Arc::clone(&socket), decoder)?;
                    state.up(socket);
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half-way through a change; and a program that logs is not to die of it.
        self.state.lock().unwrap_or_else(|broken| broken.into_inner())
    }

    fn watch(&'static self, socket: Arc<UnixStream>, decoder: Decoder) -> Result<(), Error> {
        let watcher = thread::Builder::new().name("rrd".to_owned());
        let started = watcher.spawn(move || {
            let (mut socket, mut decoder) = (socket, decoder);
            loop {
                self.read(&socket, decoder);
                match self.reconnect() {
                    Some(next) => (socket, decoder) = next,
                    None => return,
                }
            }
        });
        started.map(drop).map_err(|error| Error::unavailable(format!("cannot start a thread: {error}"), ""))
    }

    /// Read until the connection ends.
    fn read(&'static self, socket: &UnixStream, mut decoder: Decoder) {
        let mut buffer = vec![0; 1 << 14];
        loop {
            while let Ok(Some(message)) = decoder.next_message() {
                self.received(&message);
            }
            match (&*socket).read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => decoder.receive_data(&buffer[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
            if decoder.pending() > 4 + control::MAX_MESSAGE + buffer.len() {
                return; // no message: the decoder has refused it
            }
        }
    }

    fn received(&'static self, message: &Map) {
        if let Some(event) = message.text("event") {
            let data = message.map("data").unwrap_or_default();
            match (event, data.text("stream")) {
                ("ended", Some(id)) => self.ended(id, data.text("reason").unwrap_or("no reason was given")),
                ("stopping", _) => self.lock().stopping = true,
                _ => {}
            }
        } else if let Some(id) = message.integer("id") {
            let Some(result) = outcome(message) else { return }; // progress
            let mut state = self.lock();
            let Some(waiting) = state.waiting.remove(&id) else { return };
            if let (Some((identity, pipe)), Ok(opened)) = (waiting.opening, &result) {
                if let Some(stream) = opened.text("stream") {
                    let log = opened.text("log").unwrap_or_default().into();
                    let (id, broken) = (stream.to_owned(), AtomicBool::new(false));
                    state.streams.push(Arc::new(Stream { id, identity, pipe, log, broken }));
                }
            }
            // Whoever asked may have given up waiting.
            let _ = waiting.answer.send(result);
        }
    }

    fn ended(&'static self, id: &str, reason: &str) {
        let found = {
            let mut state = self.lock();
            let place = state.streams.iter().position(|stream| stream.id == id);
            place.map(|place| state.streams.swap_remove(place))
        };
        // The SDK may be about to close its end: only bytes that come after the end are worth a warning.
        if let Some(stream) = found.filter(|stream| stream.pipe.in_use()) {
            release(stream, format!("the daemon ended the stream: {reason}"));
        }
    }

    /// The connection is gone: get a new one and open all streams again. None when there is nothing to do it for.
    fn reconnect(&'static self) -> Option<(Arc<UnixStream>, Decoder)> {
        let stopped = {
            let mut state = self.lock();
            state.socket = None;
            // Those who wait see their channel end, and say it again.
            state.waiting.clear();
            state.wanted = false;
            state.phase = Phase::Busy;
            self.changed.notify_all();
            std::mem::take(&mut state.stopping)
        };
        let lost_at = Instant::now();
        let mut pause = Duration::from_millis(20);
        let (mut started, mut warned) = (false, false);
        loop {
            let streams = {
                let mut state = self.lock();
                state.streams.retain(|stream| stream.pipe.in_use() || stream.pipe.unread() > 0);
                if state.streams.is_empty() {
                    state.phase = Phase::Down;
                    self.changed.notify_all();
                    return None;
                }
                state.streams.clone()
            };
            let mut made = start::connect();
            if matches!(made, Ok(None)) && lost_at.elapsed() > RESTART_AFTER {
                let wanted = std::mem::take(&mut self.lock().wanted);
                if wanted || !(started || stopped) {
                    started = true;
                    made = start::connect_or_start().map(Some);
                    self.lock().note(&made);
                    self.changed.notify_all();
                } else if stopped && !warned {
                    warned = true;
                    warn("the daemon was stopped; what is logged meanwhile is kept (`rrd daemon start` takes it up again)");
                }
            }
            match made.and_then(|found| found.map(|socket| greet(socket, HELLO_TIMEOUT)).transpose()) {
                Ok(Some((socket, decoder))) => {
                    // Else it went away again.
                    if let Ok(connection) = self.resume(socket, decoder) {
                        self.lock().up(Arc::clone(&connection.0));
                        self.changed.notify_all();
                        return Some(connection);
                    }
                }
                Ok(None) => {}
                Err(error) => {
                    if !warned {
                        warn(&format!("the daemon died, and cannot be reached: {error}; what is logged is kept"));
                        warned = true;
                    }
                    if error.code() == Some("protocol") {
                        // It was upgraded, and goes on reading the pipes without us.
                        let mut state = self.lock();
                        state.phase = Phase::Down;
                        self.changed.notify_all();
                        return None;
                    }
                }
            }
            if lost_at.elapsed() > RESTART_AFTER && spill::spill(&streams) > 0 {
                pause = Duration::from_millis(20);
            }
            let state = self.lock();
            if state.wanted {
                drop(state);
                thread::sleep(Duration::from_millis(20));
            } else {
                drop(self.changed.wait_timeout(state, pause));
            }
            pause = (pause * 2).min(PAUSE);
        }
    }

    /// The program ends: let nothing stay in a pipe that nobody else holds.
    fn leave(&'static self) {
        let deadline = Instant::now() + EXIT_TIMEOUT;
        loop {
            let (streams, away) = {
                let state = self.lock();
                (state.streams.clone(), state.phase != Phase::Up || state.hung_up())
            };
            if !away || streams.iter().all(|stream| stream.pipe.unread() == 0) {
                return;
            }
            if Instant::now() > deadline {
                warn("the daemon does not answer; it may still get what this program logged last");
                return;
            }
            // Only what no keeper holds: its lock says so.
            spill::spill(&streams);
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn resume(
        &'static self,
        socket: Arc<UnixStream>,
        mut decoder: Decoder,
    ) -> Result<(Arc<UnixStream>, Decoder), Error> {
        let streams = self.lock().streams.clone();
        for stream in streams {
            let id = {
                let mut state = self.lock();
                state.last_id += 1;
                state.last_id
            };
            let args = open_args(&stream.identity, Some(&stream.id));
            let message = control::encode(control::request(id, "open", args))?;
            let lost = |error: std::io::Error| Error::unavailable(format!("the daemon went away: {error}"), "");
            send(&socket, &message, &[stream.pipe.read_end()]).map_err(lost)?;
            let answer = receive(&socket, &mut decoder, Instant::now() + HELLO_TIMEOUT, |message| {
                let mine = message.integer("id") == Some(id) && outcome(message).is_some();
                if !mine {
                    self.received(message);
                }
                mine
            })?;
            match outcome(&answer) {
                Some(Err(Error::Verb { code, .. })) if code == "stopping" => {
                    return Err(Error::unavailable("the daemon is stopping", ""));
                }
                Some(Err(Error::Verb { message, .. })) => self.ended(&stream.id, &message),
                Some(Err(error)) => return Err(error),
                _ => {}
            }
        }
        Ok((socket, decoder))
    }
}

impl State {
    fn up(&mut self, socket: Arc<UnixStream>) {
        self.socket = Some(socket);
        self.phase = Phase::Up;
        self.wanted = false;
        self.stopping = false;
        self.failed = None;
    }

    /// Keep in mind that no daemon could be had.
    fn note<T>(&mut self, made: &Result<T, Error>) {
        if let Err(Error::Unavailable { message, hint }) = made {
            // Not when it was noted just before: the time counts from the last real try.
            if self.recent_failure().is_none() {
                self.failed = Some((Instant::now(), message.clone(), hint.clone()));
            }
        }
    }

    fn recent_failure(&self) -> Option<Error> {
        let (when, message, hint) = self.failed.as_ref()?;
        (when.elapsed() < TRY_AGAIN_AFTER).then(|| Error::unavailable(message.as_str(), hint.as_str()))
    }

    /// Whether the other side is gone, and the watcher may not know it yet.
    fn hung_up(&self) -> bool {
        let Some(socket) = &self.socket else { return true };
        let polled = &mut [PollFd::new(&**socket, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(polled, Some(&now)).is_ok_and(|ready| ready > 0)
    }
}

fn open_args(identity: &Identity, stream: Option<&str>) -> Map {
    let program = std::env::current_exe().unwrap_or_default();
    Map::new()
        .with("application_id", identity.application_id.as_str())
        .with("recording_id", identity.recording_id.as_str())
        .with("sdk", identity.sdk.as_str())
        .with("kind", "shim")
        .with("pid", std::process::id())
        .with("program", program.to_string_lossy().as_ref())
        .with_some("stream", stream)
}

/// The end of a request: its result or its error. None for progress.
fn outcome(message: &Map) -> Option<Result<Map, Error>> {
    if let Some(result) = message.map("ok") {
        return Some(Ok(result));
    }
    let error = message.map("error")?;
    let part = |key| error.text(key).unwrap_or_default().to_owned();
    Some(Err(Error::Verb { code: part("code"), message: part("message"), hint: part("hint") }))
}

/// A connection, and a daemon that answers on it; `failure` is what went wrong not long ago.
fn establish(failure: Option<Error>) -> Result<(Arc<UnixStream>, Decoder), Error> {
    match failure {
        None => greet(start::connect_or_start()?, HELLO_TIMEOUT),
        Some(failure) => match start::connect()? {
            Some(socket) => greet(socket, SHORT_TIMEOUT),
            None => Err(failure),
        },
    }
}

/// Say hello; neither side goes on with one that speaks another protocol.
fn greet(socket: UnixStream, timeout: Duration) -> Result<(Arc<UnixStream>, Decoder), Error> {
    let failed = |error: std::io::Error| Error::unavailable(format!("the daemon does not answer: {error}"), "");
    let message = control::encode(control::hello(AGENT, std::process::id()))?;
    socket.set_write_timeout(Some(HELLO_TIMEOUT)).map_err(failed)?;
    send(&socket, &message, &[]).map_err(failed)?;
    let mut decoder = Decoder::default();
    let deadline = Instant::now() + timeout;
    let answer = receive(&socket, &mut decoder, deadline, |message| outcome(message).is_some())?;
    match outcome(&answer) {
        Some(Err(error)) => Err(error),
        Some(Ok(peer)) if peer.integer("protocol") != Some(control::PROTOCOL) => Err(Error::Verb {
            code: "protocol".to_owned(),
            message: format!(
                "the daemon (rrd {}) speaks protocol {}, {AGENT} speaks {}",
                peer.text("version").unwrap_or("?"),
                peer.integer("protocol").unwrap_or(0),
                control::PROTOCOL
            ),
            hint: "rrd daemon restart, after an upgrade of either (nothing is lost)".to_owned(),
        }),
        _ => Ok((Arc::new(socket), decoder)),
    }
}

/// Read messages until one is wanted. Those before it are for `wanted` to see.
fn receive(
    mut socket: &UnixStream,
    decoder: &mut Decoder,
    deadline: Instant,
    mut wanted: impl FnMut(&Map) -> bool,
) -> Result<Map, Error> {
    let failed = |error: std::io::Error| Error::unavailable(format!("the daemon does not answer: {error}"), "");
    let mut buffer = [0; 4096];
    loop {
        while let Some(message) = decoder.next_message()? {
            if wanted(&message) {
                socket.set_read_timeout(None).map_err(failed)?;
                return Ok(message);
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::unavailable("the daemon does not answer", "see `rrd daemon logs`"));
        }
        socket.set_read_timeout(Some(left)).map_err(failed)?;
        match socket.read(&mut buffer) {
            Ok(0) => return Err(Error::unavailable("the daemon hung up", "see `rrd daemon logs`")),
            Ok(count) => decoder.receive_data(&buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {} // the deadline says so above
            Err(error) => return Err(failed(error)),
        }
    }
}

fn send(socket: &UnixStream, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> std::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(std::io::ErrorKind::InvalidInput.into());
    }
    let sent =
        rustix::io::retry_on_intr(|| sendmsg(socket, &[IoSlice::new(message)], &mut ancillary, SendFlags::NOSIGNAL))?;
    let mut rest = &message[sent..];
    while !rest.is_empty() {
        let sent = rustix::io::retry_on_intr(|| rustix::net::send(socket, rest, SendFlags::NOSIGNAL))?;
        rest = &rest[sent..];
    }
    Ok(())
}

/// The daemon does not read this stream any more: if the SDK still writes to it, let the program go on.
fn release(stream: Arc<Stream>, reason: String) {
    let drain = move || {
        let dropped = stream.pipe.drain();
        if dropped > 0 {
            warn(&format!("{dropped} bytes of recording {} are lost: {reason}", stream.identity.recording_id));
        }
    };
    let thread = thread::Builder::new().name("rrd-drain".to_owned()).spawn(drain);
    drop(thread); // without a thread the SDK buffers, and in the end waits
}

/// Tell the user.
pub fn warn(message: &str) {
    say(&format!("rrd: warning: {message}"));
}

/// A line on stderr. That may be closed or a broken pipe: `eprintln!` would panic, in the program's own thread.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Have [`Link::leave`] run when the program ends by returning from main, or by exit.
fn at_exit() {
    extern "C" fn leave() {
        Link::get().leave();
    }
    extern "C" {
        fn atexit(function: extern "C" fn()) -> std::ffi::c_int;
    }
    // SAFETY: atexit(3) of the C library that std itself links; the function lives as long as the program.
    let _ = unsafe { atexit(leave) };
}
