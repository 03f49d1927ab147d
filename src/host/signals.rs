//! Signals by which the system reports what a system call would return as an error: the program ends with a sentence.

use std::sync::atomic::{AtomicBool, Ordering};

use nix::libc::{self, c_int, c_void, siginfo_t};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction, signal};

/// From here on a file that may not grow any more (`ulimit -f`) is an error of writing, and a mapped file that was cut short, or
/// that a disk cannot give, ends the program with a sentence that names it.
pub fn install() {
    // SAFETY: ignoring a signal runs no code.
    let ignored = unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) };
    let handler = SigAction::new(SigHandler::SigAction(on_bus_error), SaFlags::SA_SIGINFO, SigSet::empty());
    // SAFETY: the handler makes only calls that are safe in one, takes no lock, allocates nothing and does not return.
    let handled = unsafe { sigaction(Signal::SIGBUS, &handler) };
    for error in [ignored.err(), handled.err()].into_iter().flatten() {
        tracing::debug!("a signal keeps its default: {error}");
    }
}

const BEFORE: &[u8] = b"error: ";
const UNKNOWN: &[u8] = b"a mapped file";
const AFTER: &[u8] = b": was cut short, or its disk failed, while it was read; leave files as they are until the command has \
    ended, and run it again\n";

extern "C" fn on_bus_error(_: c_int, info: *mut siginfo_t, _: *mut c_void) {
    static ENTERED: AtomicBool = AtomicBool::new(false);
    if ENTERED.swap(true, Ordering::SeqCst) {
        // Another thread has the word.
        loop {
            // SAFETY: waits for a signal.
            unsafe { libc::pause() };
        }
    }
    // SAFETY: the kernel hands the handler a valid siginfo, which has an address for SIGBUS.
    let address = unsafe { (*info).si_addr() } as usize;
    let mut line = Line { bytes: [0; LINE], length: 0 };
    line.put(BEFORE);
    if !put_mapped_file(address, &mut line) {
        line.put(UNKNOWN);
    }
    line.put(AFTER);
    // SAFETY: the buffer has that many bytes; both calls are safe in a handler.
    unsafe {
        libc::write(libc::STDERR_FILENO, line.bytes.as_ptr().cast(), line.length);
        libc::_exit(1);
    }
}

/// Room for a path of the greatest length, and the sentence.
const LINE: usize = libc::PATH_MAX as usize + 256;

/// A line put together without allocating.
struct Line {
    bytes: [u8; LINE],
    length: usize,
}

impl Line {
    fn put(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if let Some(place) = self.bytes.get_mut(self.length) {
                *place = byte;
                self.length += 1;
            }
        }
    }
}

/// Puts the path of the file that is mapped at `address`, as `/proc/self/maps` has it; `false` where none is.
fn put_mapped_file(address: usize, line: &mut Line) -> bool {
    // SAFETY: the path ends in a zero byte.
    let file = unsafe { libc::open(c"/proc/self/maps".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    let mut maps = Maps { address, field: 0, number: 0, start: 0, is_here: false, has_path: false };
    let mut buffer = [0u8; 1024];
    loop {
        // SAFETY: the buffer has that many bytes.
        let got = unsafe { libc::read(file, buffer.as_mut_ptr().cast(), buffer.len()) };
        if got <= 0 {
            return maps.has_path;
        }
        for &byte in &buffer[..got as usize] {
            if maps.take(byte, line) {
                return maps.has_path;
            }
        }
    }
}

/// Reads lines `start-end permissions offset device inode    path` byte by byte.
struct Maps {
    address: usize,
    /// 0: start, 1: end, 2 to 5: what is passed over, 6: the path.
    field: u8,
    number: usize,
    start: usize,
    is_here: bool,
    has_path: bool,
}

impl Maps {
    /// Takes a byte; `true` at the end of the line of the address.
    fn take(&mut self, byte: u8, line: &mut Line) -> bool {
        let digit = (byte as char).to_digit(16);
        match (self.field, byte) {
            (_, b'\n') if self.is_here => return true,
            (_, b'\n') => (self.field, self.number) = (0, 0),
            (0, b'-') => (self.field, self.start, self.number) = (1, self.number, 0),
            (1, b' ') => {
                self.field = 2;
                self.is_here = (self.start..self.number).contains(&self.address);
            }
            (0 | 1, _) => self.number = self.number.wrapping_shl(4) | digit.unwrap_or_default() as usize,
            (2..5, b' ') => self.field += 1,
            // Spaces fill up to the path.
            (5, b'/' | b'[') => {
                self.field = 6;
                self.put(byte, line);
            }
            (6, _) => self.put(byte, line),
            _ => {}
        }
        false
    }

    fn put(&mut self, byte: u8, line: &mut Line) {
        if self.is_here {
            line.put(&[byte]);
            self.has_path = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_that_is_mapped_at_an_address_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a file of weights");
        std::fs::write(&path, [1; 5000]).unwrap();
        let file = std::fs::File::open(&path).unwrap();
        // SAFETY: nobody changes the file of the test.
        let map = unsafe { memmap2::Mmap::map(&file) }.unwrap();
        let named = |address: usize| {
            let mut line = Line { bytes: [0; LINE], length: 0 };
            let found = put_mapped_file(address, &mut line);
            (found, String::from_utf8_lossy(&line.bytes[..line.length]).into_owned())
        };
        let path = std::fs::canonicalize(&path).unwrap().display().to_string();
        assert_eq!(named(map.as_ptr() as usize + 4999), (true, path));
        assert_eq!(named(16), (false, String::new()));
    }
}
