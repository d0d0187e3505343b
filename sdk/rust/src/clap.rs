//! The flags of a Rerun program, for a program's own [clap](https://docs.rs/clap) parser.

use std::path::PathBuf;

use crate::{Builder, Error, Output, Recording, SaveOptions, ServeOptions};

/// Where a viewer listens unless it was told otherwise.
pub const DEFAULT_URL: &str = "rerun+http://127.0.0.1:9876/proxy";

/// Where the recording goes: the flags of `rerun::clap::RerunArgs`, but any number of them together.
///
/// What differs: a file that exists is refused unless `--force`; `--bind` is 127.0.0.1 unless said otherwise, and needs
/// `--serve`; `--stdout` goes with nothing else; nothing waits at the end, since the daemon serves. A blueprint is the
/// builder's: `with_blueprint`.
///
/// ```no_run
/// #[derive(Debug, clap::Parser)]
/// struct Args {
///     #[command(flatten)]
///     rrd: rrd::clap::RrdArgs,
///
///     #[arg(long)]
///     my_own: bool,
/// }
///
/// # #[cfg(feature = "rerun-0-41")]
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let args = <Args as clap::Parser>::parse();
///     let (rec, _outputs) = args.rrd.init(rerun::RecordingStreamBuilder::new("my_app"))?;
///     rec.log("hello", &rerun::TextLog::new("world"))?;
///     Ok(())
/// }
/// # #[cfg(not(feature = "rerun-0-41"))]
/// # fn main() {}
/// ```
#[derive(Clone, Debug, Default, clap::Args)]
pub struct RrdArgs {
    /// Show the data in a viewer: one that is running, else a new one. The default without any of these flags; but then
    /// the program goes on where none can be opened.
    #[arg(long)]
    pub spawn: bool,

    /// Save the data to an .rrd file. May be given several times.
    #[arg(long, value_name = "PATH")]
    pub save: Vec<PathBuf>,

    /// Overwrite the files of --save.
    #[arg(long, requires = "save")]
    pub force: bool,

    /// Write the data to standard output, to be piped into a viewer or into `rrd save FILE -`.
    #[arg(long, short = 'o', conflicts_with_all = ["spawn", "save", "connect", "serve", "headless"])]
    pub stdout: bool,

    /// Feed a viewer that is running [default: rerun+http://127.0.0.1:9876/proxy].
    #[arg(long, value_name = "URL", num_args = 0..=1, default_missing_value = DEFAULT_URL)]
    pub connect: Option<String>,

    /// Serve the data to browsers, and open one.
    #[arg(long)]
    pub serve: bool,

    /// What address to serve on [default: 127.0.0.1].
    #[arg(long, requires = "serve")]
    pub bind: Option<String>,

    /// No output now: the daemon keeps the recording, for `rrd save` and the like.
    #[arg(long, conflicts_with = "spawn")]
    pub headless: bool,

    /// Taken because `rerun::clap::RerunArgs` takes it: the daemon serves from its log on disk, which has no such limit.
    #[arg(long, value_name = "SIZE", hide = true)]
    pub server_memory_limit: Option<String>,

    /// Taken because `rerun::clap::RerunArgs` takes it: pages show what is there at once, whatever its order.
    #[arg(long, hide = true)]
    pub newest_first: bool,
}

impl RrdArgs {
    /// Build the recording, and give it the outputs that were asked for.
    ///
    /// # Errors
    /// The first thing that failed; see [`crate::save`] and its sisters.
    pub fn init<B: Builder>(&self, builder: B) -> Result<(B::Stream, Vec<Output>), Error> {
        let rec = builder.build_buffered()?;
        let outputs = self.apply(&rec)?;
        Ok((rec, outputs))
    }

    /// Give a recording the outputs that were asked for.
    ///
    /// # Errors
    /// As [`RrdArgs::init`].
    pub fn apply(&self, rec: &impl Recording) -> Result<Vec<Output>, Error> {
        if self.stdout {
            crate::stdout(rec)?;
            return Ok(Vec::new());
        }
        let mut outputs = Vec::new();
        // Viewers first: they decide how promptly the SDK writes.
        let asked = self.connect.is_some() || self.serve || self.headless || !self.save.is_empty();
        if self.spawn || !asked {
            match crate::spawn(rec) {
                Ok(output) => outputs.push(output),
                // Nobody said --spawn: a robot without a screen must not stop for it.
                Err(error @ Error::Verb { .. }) if !self.spawn => crate::link::warn(&format!(
                    "no viewer: {error}; the program goes on, what it logs is kept (--headless asks for no viewer)"
                )),
                Err(error) => return Err(error),
            }
        }
        if let Some(url) = &self.connect {
            outputs.push(crate::connect(rec, url)?);
        }
        if self.serve {
            let options = ServeOptions { bind: self.bind.clone(), open_browser: Some(true), ..ServeOptions::default() };
            let output = crate::serve_with(rec, &options)?;
            if let Some(url) = &output.url {
                crate::link::say(url);
            }
            outputs.push(output);
        }
        for path in &self.save {
            outputs.push(crate::save_with(rec, path, SaveOptions { force: self.force, ..SaveOptions::default() })?);
        }
        if self.headless && outputs.is_empty() {
            outputs.push(crate::attach(rec)?);
        }
        Ok(outputs)
    }
}
