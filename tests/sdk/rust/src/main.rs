//! A program that logs, and does what it is told to: one command a line on stdin, one answer a line on stdout.
//! The same program is in tests/sdk/cpp and tests/sdk/python; tests/integration/test_sdk_languages.py drives them all.
//!
//! ```text
//! log N [PAUSE_US]   log N more rows, with a pause after each          ok
//! threads N COUNT    log COUNT more rows in each of N threads          ok
//! attach             the daemon's part                                 ok STREAM SINK URL | buffering
//! save PATH [force] [copy] [last=S] · spawn PORT · connect URL · serve (likewise; "-" where there is none)
//! crowd N            save crowd-I.rrd in N threads at once             ok STREAM
//! stdout · flush · durable · detach SINK                               ok
//! disconnect         what the SDK calls so                             ok
//! end                drop the recording                                ok
//! other ID           drop it, and begin another with that id, row 0    ok
//! move               take a clone of it, and drop it; in C++ move it   ok
//! second PATH COUNT  another recording, "two", beside it: save, log    ok STREAM SINK URL
//! builders URL       in Rust: a recording "three" of each one-liner   ok
//! fork exit|stay     a child that ends at once, or waits to be killed  ok PID
//! abort              leave at once, without cleaning up
//! anything that fails                                                  error CODE MESSAGE
//! ```

use std::error::Error;
use std::io::{BufRead as _, Write as _};
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread::{self, sleep};
use std::time::Duration;

use clap::Parser as _;
use rerun::{RecordingStream, RecordingStreamBuilder};

#[derive(clap::Parser)]
struct Args {
    #[command(flatten)]
    rrd: rrd::clap::RrdArgs,

    #[arg(long, default_value = "driver")]
    app: String,

    #[arg(long, default_value = "one")]
    recording_id: String,

    /// Obey the flags, log this many rows, and end; else take commands.
    #[arg(long)]
    count: Option<i64>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let app: &'static str = args.app.leak();
    let builder = RecordingStreamBuilder::new(app).recording_id(args.recording_id);
    if let Some(count) = args.count {
        let (rec, _outputs) = args.rrd.init(builder)?;
        for row in 0..count {
            log(&rec, row)?;
        }
        return Ok(());
    }
    let mut program = Program { app, rec: Some(builder.buffered()?), others: Vec::new(), rows: AtomicI64::new(0) };
    say("ready");
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<_> = line.split_whitespace().collect();
        match program.obey(&words) {
            Ok(answer) => say(&answer),
            Err(error) => match error.downcast_ref::<rrd::Error>() {
                Some(error) => say(&format!("error {} {error}", error.code().unwrap_or("-"))),
                None => say(&format!("error - {error}")),
            },
        }
    }
    Ok(())
}

type Answer = Result<String, Box<dyn Error>>;

struct Program {
    app: &'static str,
    rec: Option<RecordingStream>,
    others: Vec<RecordingStream>,
    rows: AtomicI64,
}

impl Program {
    fn obey(&mut self, words: &[&str]) -> Answer {
        let rec = self.rec.as_ref().ok_or("the recording has ended")?;
        let ok = || Ok("ok".to_owned());
        let output = match words {
            ["log", count] => return self.log(rec, count.parse()?, 0),
            ["log", count, pause] => return self.log(rec, count.parse()?, pause.parse()?),
            ["threads", number, count] => {
                let count = count.parse()?;
                return together(number.parse()?, |_| self.log(&rec.clone(), count, 0).map_err(|e| e.to_string()));
            }
            ["attach"] => rrd::attach(rec)?,
            ["save", path, options @ ..] => {
                let (force, copy) = (options.contains(&"force"), options.contains(&"copy"));
                let last = options.iter().find_map(|option| option.strip_prefix("last="));
                let last = last.map(str::parse).transpose()?.map(Duration::from_secs_f64);
                rrd::save_with(rec, path, rrd::SaveOptions { force, copy, last })?
            }
            ["crowd", number] => {
                return together(number.parse()?, |number| {
                    // A clone is the same recording.
                    let saved = rrd::save(&rec.clone(), format!("crowd-{number}.rrd"));
                    saved.map(|output| format!("ok {}", output.stream.unwrap_or_default())).map_err(|e| e.to_string())
                });
            }
            ["spawn", port] => {
                let options =
                    rrd::SpawnOptions { port: Some(port.parse()?), headless: true, ..rrd::SpawnOptions::default() };
                rrd::spawn_with(rec, &options)?
            }
            ["connect", url] => rrd::connect(rec, url)?,
            ["serve"] => rrd::serve_with(rec, &rrd::ServeOptions { open_browser: Some(false), ..Default::default() })?,
            ["stdout"] => return rrd::stdout(rec).map_err(Into::into).and_then(|()| ok()),
            ["flush"] => return rrd::flush(rec, rrd::Durable::No).map_err(Into::into).and_then(|()| ok()),
            ["durable"] => return rrd::flush(rec, rrd::Durable::Yes).map_err(Into::into).and_then(|()| ok()),
            ["detach", sink] => return rrd::detach(sink).map_err(Into::into).and_then(|()| ok()),
            ["disconnect"] => {
                rec.disconnect();
                return ok();
            }
            ["end"] => {
                self.rec = None;
                return ok();
            }
            ["other", id] => {
                self.rec = None;
                self.rec = Some(RecordingStreamBuilder::new(self.app).recording_id(*id).buffered()?);
                self.rows.store(0, Ordering::Relaxed);
                return ok();
            }
            ["move"] => {
                self.rec = Some(rec.clone());
                return ok();
            }
            ["second", path, count] => {
                use rrd::Builder as _;
                let second = RecordingStreamBuilder::new(self.app).recording_id("two").rrd_save(path)?;
                for row in 0..count.parse()? {
                    log(&second, row)?;
                }
                let output = rrd::attach(&second)?;
                self.others.push(second);
                output
            }
            ["builders", url] => {
                use rrd::Builder as _;
                let builder = || RecordingStreamBuilder::new(self.app).recording_id("three");
                let (served, output) = builder().rrd_serve()?;
                log(&served, 0)?;
                drop(served);
                log(&builder().rrd_attach()?, 1)?;
                log(&builder().rrd_save("three.rrd")?, 2)?;
                log(&builder().rrd_connect(url)?, 3)?;
                output
            }
            ["fork", how] => return fork(*how == "stay"),
            ["abort"] => std::process::abort(),
            _ => return Err(format!("no such command: {words:?}").into()),
        };
        let part = |part: Option<String>| part.unwrap_or_else(|| "-".to_owned());
        Ok(match output.stream {
            Some(stream) => format!("ok {stream} {} {}", part(output.sink), part(output.url)),
            None => "buffering".to_owned(),
        })
    }

    fn log(&self, rec: &RecordingStream, count: i64, pause_us: u64) -> Answer {
        for _ in 0..count {
            log(rec, self.rows.fetch_add(1, Ordering::Relaxed))?;
            if pause_us > 0 {
                sleep(Duration::from_micros(pause_us));
            }
        }
        Ok("ok".to_owned())
    }
}

/// The same thing in several threads at once: what all of them say, or what one says otherwise.
fn together(number: usize, work: impl Fn(usize) -> Result<String, String> + Sync) -> Answer {
    let work = &work;
    let said: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..number).map(|index| scope.spawn(move || work(index))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err("a thread panicked".to_owned())))
            .collect()
    });
    match said.iter().find(|one| **one != said[0]) {
        Some(other) => Err(format!("{:?} but {other:?}", said[0]).into()),
        None => Ok(said[0].clone()?),
    }
}

fn fork(stay: bool) -> Answer {
    extern "C" {
        fn fork() -> i32;
        fn pause() -> i32;
        fn waitpid(pid: i32, status: *mut i32, options: i32) -> i32;
    }
    // SAFETY: fork(2), pause(2) and waitpid(2); the child does nothing but wait and leave.
    let child = unsafe { fork() };
    if child == 0 {
        if stay {
            unsafe { pause() };
        }
        std::process::exit(0); // with all that is to be done then
    }
    let mut status = 0;
    if !stay {
        unsafe { waitpid(child, &raw mut status, 0) };
    }
    if status != 0 {
        return Err(format!("the child ended with {status}").into());
    }
    Ok(format!("ok {child}"))
}

fn log(rec: &RecordingStream, row: i64) -> Result<(), Box<dyn Error>> {
    rec.set_time_sequence("frame", row);
    rec.log("row", &rerun::TextLog::new(format!("row {row}")))?;
    Ok(())
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // Whoever drives this may be gone.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use clap::{Arg, ArgAction, Args, Command};

    /// Flag by flag: its letter, and how many values it takes.
    fn flags<A: Args>() -> BTreeMap<String, (Option<char>, bool, bool)> {
        let command = A::augment_args(Command::new("program"));
        let shape = |arg: &Arg| {
            let values = arg.get_num_args();
            let valued = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
            let (least, most) = values.map_or((1, 1), |values| (values.min_values(), values.max_values()));
            (arg.get_short(), valued && least > 0, valued && most > 0)
        };
        command.get_arguments().map(|arg| (arg.get_long().unwrap_or_default().to_owned(), shape(arg))).collect()
    }

    /// A program that changes from one to the other takes what it took. (`--serve` is there with `rerun/web_viewer` only.)
    #[test]
    fn reruns_own_flags_are_taken() {
        let (theirs, ours) = (flags::<rerun::clap::RerunArgs>(), flags::<rrd::clap::RrdArgs>());
        assert!(theirs.len() >= 7, "{theirs:?}");
        for (flag, shape) in &theirs {
            assert_eq!(ours.get(flag), Some(shape), "--{flag}");
        }
        assert_eq!(ours["serve"], (None, false, false));
    }
}
