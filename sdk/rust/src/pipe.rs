//! The pipe between one recording and the daemon.
//!
//! The SDK is told to save to `/proc/self/fd/N` of the write end; the daemon gets the read end. Both ends are
//! also held here, for as long as the stream lives: so the SDK never meets a pipe that nobody reads, and the
//! bytes in it survive the death of whoever reads it.

use std::fs;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Mutex;

use rustix::pipe::{pipe_with, PipeFlags};

/// What a stream is called by the program that logs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The recording's application id.
    pub application_id: String,
    /// The recording's id.
    pub recording_id: String,
    /// The SDK that writes the stream, for people: "rerun-sdk 0.41.0 (rust)".
    pub sdk: String,
}

/// Both ends of a pipe, and the inode that tells it from others.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: Mutex<Option<OwnedFd>>,
    inode: u64,
}

impl Pipe {
    /// A new pipe, closed on exec.
    pub fn new() -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        let inode = rustix::fs::fstat(&read)?.st_ino;
        Ok(Self { read, write: Mutex::new(Some(write)), inode })
    }

    /// The end that the daemon reads.
    pub fn read_end(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }

    /// A path that reaches the write end, for as long as it is held here.
    pub fn path(&self) -> Option<PathBuf> {
        let write = self.write.lock().unwrap_or_else(|broken| broken.into_inner());
        write.as_ref().map(|end| format!("/proc/self/fd/{}", end.as_raw_fd()).into())
    }

    /// Bytes that wait to be read.
    pub fn unread(&self) -> u64 {
        rustix::io::ioctl_fionread(&self.read).unwrap_or(0)
    }

    /// The read end as a file.
    pub fn reader(&self) -> io::Result<fs::File> {
        self.read.try_clone().map(fs::File::from)
    }

    /// Whether somebody else in this process holds the pipe: the SDK, until its sink ends.
    pub fn in_use(&self) -> bool {
        let name = format!("pipe:[{}]", self.inode);
        let Ok(entries) = fs::read_dir("/proc/self/fd") else { return true };
        let links = entries.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
        let held = 1 + usize::from(self.path().is_some());
        links.filter(|link| link.as_os_str() == name.as_str()).count() > held
    }

    /// Read and drop what the SDK still writes, so that it neither stalls nor dies, until its sink ends.
    ///
    /// Returns the number of bytes that were dropped.
    pub fn drain(&self) -> u64 {
        // Only then does the end of file show.
        self.write.lock().unwrap_or_else(|broken| broken.into_inner()).take();
        let Ok(mut file) = self.reader() else { return 0 };
        let (mut buffer, mut dropped) = (vec![0; 1 << 16], 0);
        loop {
            match file.read(&mut buffer) {
                Ok(0) => return dropped,
                Ok(count) => dropped += count as u64,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // The daemon reads without blocking, and that flag is the pipe's, not the descriptor's.
                    let ends = &mut [rustix::event::PollFd::new(&file, rustix::event::PollFlags::IN)];
                    if rustix::event::poll(ends, None).is_err() {
                        continue;
                    }
                }
                Err(_) => return dropped,
            }
        }
    }
}
