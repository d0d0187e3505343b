//! What is asked of a Rerun SDK: say who you are, save to a path, flush. Version by version.

use std::path::Path;
use std::time::Duration;

use crate::{BoxError, Error, Identity};

/// How long the SDK gathers rows before it writes them out, where the program and its environment did not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Latency {
    /// The SDK's choice for files (200 ms): few, big chunks.
    File,
    /// The SDK's choice for viewers (8 ms): asked for when a viewer is the recording's first output.
    Viewer,
}

/// A recording that can be handed to the daemon.
///
/// Implemented for the `RecordingStream` of each version of `rerun` whose feature is on (`rerun-0-41`, ...), and
/// for [`Custom`], which works with every version.
pub trait Recording {
    /// Who it is. None if it is disabled: then every verb does nothing.
    fn identity(&self) -> Option<Identity>;

    /// Have the SDK save to a path from now on, with what it has buffered first. The path is that of a pipe.
    fn save_to(&self, path: &Path, latency: Latency) -> Result<(), BoxError>;

    /// Write out all that was logged before.
    fn flush_out(&self, timeout: Duration) -> Result<(), BoxError>;

    /// Have the SDK write to standard output from now on.
    fn log_to_stdout(&self) -> Result<(), BoxError>;
}

/// A recording builder that makes a [`Recording`], and hands it to the daemon in the same line.
///
/// ```no_run
/// # #[cfg(feature = "rerun-0-41")]
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use rrd::Builder as _;
/// let rec = rerun::RecordingStreamBuilder::new("my_app").rrd_save("run.rrd")?;
/// # Ok(()) }
/// # #[cfg(not(feature = "rerun-0-41"))]
/// # fn main() {}
/// ```
pub trait Builder: Sized {
    /// What it builds.
    type Stream: Recording;

    /// Build a recording that buffers.
    fn build_buffered(self) -> Result<Self::Stream, Error>;

    /// Build a recording and [`attach`](crate::attach) it.
    fn rrd_attach(self) -> Result<Self::Stream, Error> {
        let rec = self.build_buffered()?;
        crate::attach(&rec)?;
        Ok(rec)
    }

    /// Build a recording and [`save`](crate::save) it.
    fn rrd_save(self, path: impl AsRef<Path>) -> Result<Self::Stream, Error> {
        let rec = self.build_buffered()?;
        crate::save(&rec, path)?;
        Ok(rec)
    }

    /// Build a recording and [`spawn`](crate::spawn) a viewer for it.
    fn rrd_spawn(self) -> Result<Self::Stream, Error> {
        let rec = self.build_buffered()?;
        crate::spawn(&rec)?;
        Ok(rec)
    }

    /// Build a recording and [`connect`](crate::connect) it to a viewer.
    fn rrd_connect(self, url: &str) -> Result<Self::Stream, Error> {
        let rec = self.build_buffered()?;
        crate::connect(&rec, url)?;
        Ok(rec)
    }

    /// Build a recording and [`serve`](crate::serve) it to browsers. The output has the URL.
    fn rrd_serve(self) -> Result<(Self::Stream, crate::Output), Error> {
        let rec = self.build_buffered()?;
        let output = crate::serve(&rec)?;
        Ok((rec, output))
    }
}

/// A recording of any version of any SDK, in three parts: who it is, how it saves to a path, how it flushes.
///
/// ```no_run
/// # fn save(path: &std::path::Path) -> Result<(), std::io::Error> { Ok(()) }
/// # fn flush() -> Result<(), std::io::Error> { Ok(()) }
/// // With a RecordingStream `rec`: |path| rec.save(path), || rec.flush_blocking()
/// let rec = rrd::Custom::new("my_app", "run-17", save, flush);
/// rrd::save(&rec, "run.rrd")?;
/// # Ok::<(), rrd::Error>(())
/// ```
pub struct Custom<Save, Flush> {
    identity: Identity,
    save: Save,
    flush: Flush,
}

impl<Save, SaveError, Flush, FlushError> Custom<Save, Flush>
where
    Save: Fn(&Path) -> Result<(), SaveError>,
    SaveError: Into<BoxError>,
    Flush: Fn() -> Result<(), FlushError>,
    FlushError: Into<BoxError>,
{
    /// A recording with this application id and recording id.
    pub fn new(application_id: impl Into<String>, recording_id: impl Into<String>, save: Save, flush: Flush) -> Self {
        let identity = Identity {
            application_id: application_id.into(),
            recording_id: recording_id.into(),
            sdk: "rerun-sdk (rust)".to_owned(),
        };
        Self { identity, save, flush }
    }
}

impl<Save, SaveError, Flush, FlushError> Recording for Custom<Save, Flush>
where
    Save: Fn(&Path) -> Result<(), SaveError>,
    SaveError: Into<BoxError>,
    Flush: Fn() -> Result<(), FlushError>,
    FlushError: Into<BoxError>,
{
    fn identity(&self) -> Option<Identity> {
        Some(self.identity.clone())
    }

    fn save_to(&self, path: &Path, _latency: Latency) -> Result<(), BoxError> {
        (self.save)(path).map_err(Into::into)
    }

    fn flush_out(&self, _timeout: Duration) -> Result<(), BoxError> {
        (self.flush)().map_err(Into::into)
    }

    fn log_to_stdout(&self) -> Result<(), BoxError> {
        (self.save)(Path::new("/proc/self/fd/1")).map_err(Into::into)
    }
}

/// The same code for every version: their `RecordingStream`s are different types with the same methods.
#[allow(unused_macros, reason = "no version is on by default")]
macro_rules! recording_of {
    ($version:ident, $re_sdk:ident) => {
        mod $version {
            use std::path::Path;
            use std::time::Duration;

            use $re_sdk::log::{ChunkBatcherConfig, LogMsg};
            use $re_sdk::sink::{FileSink, LogSink, SinkFlushError};
            use $re_sdk::{RecordingStream, RecordingStreamBuilder};

            use super::{Builder, Latency, Recording};
            use crate::{BoxError, Error, Identity};

            impl Recording for RecordingStream {
                fn identity(&self) -> Option<Identity> {
                    let info = self.store_info()?;
                    let version = info.store_version.map(|version| format!("{version} ")).unwrap_or_default();
                    Some(Identity {
                        application_id: info.store_id.application_id().to_string(),
                        recording_id: info.store_id.recording_id().to_string(),
                        sdk: format!("rerun-sdk {version}(rust)"),
                    })
                }

                fn save_to(&self, path: &Path, latency: Latency) -> Result<(), BoxError> {
                    match latency {
                        Latency::File => self.save(path)?,
                        Latency::Viewer => self.set_sink(Box::new(Prompt(FileSink::new(path)?))),
                    }
                    Ok(())
                }

                fn flush_out(&self, timeout: Duration) -> Result<(), BoxError> {
                    Ok(self.flush_with_timeout(timeout)?)
                }

                fn log_to_stdout(&self) -> Result<(), BoxError> {
                    Ok(self.stdout()?)
                }
            }

            impl Builder for RecordingStreamBuilder {
                type Stream = RecordingStream;

                fn build_buffered(self) -> Result<RecordingStream, Error> {
                    self.buffered().map_err(|error| Error::Sdk(error.into()))
                }
            }

            /// A file sink that wants its rows as promptly as a viewer does. A batcher config of the program's own,
            /// and RERUN_FLUSH_* in the environment, win over it, as they do over every sink's.
            struct Prompt(FileSink);

            impl LogSink for Prompt {
                fn send(&self, msg: LogMsg) {
                    LogSink::send(&self.0, msg);
                }

                fn send_all(&self, messages: Vec<LogMsg>) {
                    LogSink::send_all(&self.0, messages);
                }

                fn flush_blocking(&self, timeout: Duration) -> Result<(), SinkFlushError> {
                    LogSink::flush_blocking(&self.0, timeout)
                }

                fn default_batcher_config(&self) -> ChunkBatcherConfig {
                    ChunkBatcherConfig::LOW_LATENCY
                }

                fn defers_finalization_to_shutdown(&self) -> bool {
                    true
                }
            }
        }
    };
}

#[cfg(feature = "rerun-0-36")]
recording_of!(v0_36, re_sdk_0_36);
#[cfg(feature = "rerun-0-37")]
recording_of!(v0_37, re_sdk_0_37);
#[cfg(feature = "rerun-0-38")]
recording_of!(v0_38, re_sdk_0_38);
#[cfg(feature = "rerun-0-40")]
recording_of!(v0_40, re_sdk_0_40);
#[cfg(feature = "rerun-0-41")]
recording_of!(v0_41, re_sdk_0_41);
