//! A program that logs, and does what it is told to: one command a line on stdin, one answer a line on stdout.
//! The same program is in tests/sdk/cpp and tests/sdk/python; tests/integration/test_sdk_languages.py drives them all.
//!
//! ```text
//! log N [PAUSE_US]   log N more rows, with a pause after each          ok
//! attach             the daemon's part                                 ok STREAM SINK URL | buffering
//! save PATH [force] [copy] · spawn · connect URL · serve               (likewise; "-" where there is none)
//! stdout · flush · durable · detach SINK                               ok
//! disconnect         what the SDK calls so                             ok
//! end                drop the recording                                ok
//! abort              leave at once, without cleaning up
//! anything that fails                                                  error CODE MESSAGE
//! ```

use std::error::Error;
use std::io::{BufRead as _, Write as _};
use std::thread::sleep;
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
    let builder = RecordingStreamBuilder::new(&*args.app.leak()).recording_id(args.recording_id);
    if let Some(count) = args.count {
        let (rec, _outputs) = args.rrd.init(builder)?;
        for row in 0..count {
            log(&rec, row)?;
        }
        return Ok(());
    }
    let mut rec = Some(builder.buffered()?);
    let mut rows = 0;
    say("ready");
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<_> = line.split_whitespace().collect();
        match obey(&mut rec, &mut rows, &words) {
            Ok(answer) => say(&answer),
            Err(error) => match error.downcast_ref::<rrd::Error>() {
                Some(error) => say(&format!("error {} {error}", error.code().unwrap_or("-"))),
                None => say(&format!("error - {error}")),
            },
        }
    }
    Ok(())
}

fn obey(rec: &mut Option<RecordingStream>, rows: &mut i64, words: &[&str]) -> Result<String, Box<dyn Error>> {
    let stream = rec.as_ref().ok_or("the recording has ended")?;
    let output = match words {
        ["log", count, pause @ ..] => {
            let pause = pause.first().map_or(Ok(0), |pause| pause.parse())?;
            for _ in 0..count.parse()? {
                log(stream, *rows)?;
                *rows += 1;
                if pause > 0 {
                    sleep(Duration::from_micros(pause));
                }
            }
            return Ok("ok".to_owned());
        }
        ["attach"] => rrd::attach(stream)?,
        ["save", path, options @ ..] => {
            let (force, copy) = (options.contains(&"force"), options.contains(&"copy"));
            rrd::save_with(stream, path, rrd::SaveOptions { force, copy })?
        }
        ["spawn"] => rrd::spawn(stream)?,
        ["connect", url] => rrd::connect(stream, url)?,
        ["serve"] => rrd::serve_with(stream, &rrd::ServeOptions { open_browser: Some(false), ..Default::default() })?,
        ["stdout"] => return rrd::stdout(stream).map(|()| "ok".to_owned()).map_err(Into::into),
        ["flush"] => return rrd::flush(stream, rrd::Durable::No).map(|()| "ok".to_owned()).map_err(Into::into),
        ["durable"] => return rrd::flush(stream, rrd::Durable::Yes).map(|()| "ok".to_owned()).map_err(Into::into),
        ["detach", sink] => return rrd::detach(sink).map(|()| "ok".to_owned()).map_err(Into::into),
        ["disconnect"] => {
            stream.disconnect();
            return Ok("ok".to_owned());
        }
        ["end"] => {
            *rec = None;
            return Ok("ok".to_owned());
        }
        ["abort"] => std::process::abort(),
        _ => return Err(format!("no such command: {words:?}").into()),
    };
    let part = |part: Option<String>| part.unwrap_or_else(|| "-".to_owned());
    Ok(match output.stream {
        Some(stream) => format!("ok {stream} {} {}", part(output.sink), part(output.url)),
        None => "buffering".to_owned(),
    })
}

fn log(rec: &RecordingStream, row: i64) -> Result<(), Box<dyn Error>> {
    rec.set_time_sequence("row", row);
    rec.log("log", &rerun::TextLog::new(format!("row {row}")))?;
    Ok(())
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // Whoever drives this may be gone.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
