//! Splits a byte stream into lines without copying them.
//!
//! Input is read in large pieces; each line is a slice of the piece it was read into. Invariant:
//! the lines, joined by newlines, are the input. Runs on a blocking thread.

use std::io::{self, Read};

use bytes::{Bytes, BytesMut};

/// How much memory is taken at once to read into.
const READ_BYTES: usize = 1 << 20;

/// The least that is asked of the input: what a pipe gives at once.
const READ_BYTES_MIN: usize = 1 << 16;

/// Why there is no next piece.
#[derive(Debug)]
pub(crate) enum ReadError {
    Io(io::Error),
    /// The line after the last piece does not end within the limit.
    LineTooLong,
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Reads pieces that end at the end of a line.
pub(crate) struct Pieces<R> {
    input: R,
    /// What was read behind the last whole line, then room to read into.
    buffer: BytesMut,
    filled: usize,
    line_bytes_max: usize,
    ended: bool,
}

impl<R: Read> Pieces<R> {
    /// Lines longer than `line_bytes_max` are an error, so that memory stays bounded.
    pub(crate) fn new(input: R, line_bytes_max: usize) -> Self {
        Self {
            input,
            buffer: BytesMut::new(),
            filled: 0,
            line_bytes_max,
            ended: false,
        }
    }

    /// The next piece: whole lines, each with its newline, but for the last line of the input,
    /// which may lack it. None at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>, ReadError> {
        while !self.ended {
            if self.buffer.len() - self.filled < READ_BYTES_MIN {
                self.buffer.resize(self.filled + READ_BYTES, 0);
            }
            let read = read_once(&mut self.input, &mut self.buffer[self.filled..])?;
            self.ended = read == 0;
            let held = self.filled;
            self.filled += read;
            if let Some(newline) = memchr::memrchr(b'\n', &self.buffer[held..self.filled]) {
                return Ok(Some(self.take(held + newline + 1)));
            }
            if self.filled > self.line_bytes_max {
                return Err(ReadError::LineTooLong);
            }
        }
        let last = self.take(self.filled);
        Ok(Some(last).filter(|last| !last.is_empty()))
    }

    fn take(&mut self, bytes: usize) -> Bytes {
        self.filled -= bytes;
        self.buffer.split_to(bytes).freeze()
    }
}

fn read_once(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match input.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// The lines of a piece, without their newlines.
pub(crate) fn lines(piece: &Bytes) -> impl Iterator<Item = Bytes> {
    let mut start = 0;
    let ends = memchr::memchr_iter(b'\n', piece);
    // The end of the piece ends a line too, unless a newline just did.
    let unfinished = (piece.last() != Some(&b'\n')).then_some(piece.len());
    ends.chain(unfinished).map(move |end| {
        let line = piece.slice(start..end);
        start = end + 1;
        line
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives its bytes in pieces of the given size, as a pipe does.
    struct Drip<'a>(&'a [u8], usize);

    impl Read for Drip<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(buffer.len());
            self.0.read(&mut buffer[..count])
        }
    }

    fn split(input: &[u8], step: usize) -> Vec<Bytes> {
        let mut pieces = Pieces::new(Drip(input, step), 1 << 21);
        let mut found = Vec::new();
        while let Some(piece) = pieces.next().expect("reading from memory succeeds") {
            found.extend(lines(&piece));
        }
        found
    }

    #[test]
    fn lines_are_the_input_whatever_the_reads() {
        let long = [b"x".repeat(READ_BYTES + 7), b"\ny\n".to_vec()].concat();
        for input in [
            &b"a\n\xFF\r\n\nb"[..],
            b"",
            b"\n",
            b"a",
            b"a\n",
            b"\n\n",
            &long,
        ] {
            for step in [1, 2, 3, READ_BYTES] {
                if step < 3 && input.len() > 100 {
                    continue;
                }
                let expected = input.strip_suffix(b"\n").unwrap_or(input);
                let count = usize::from(!input.is_empty());
                let newlines = memchr::memchr_iter(b'\n', expected).count();
                let found = split(input, step);
                assert_eq!(found.join(&b'\n'), expected);
                assert_eq!(found.len(), count + newlines * count);
            }
        }
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut pieces = Pieces::new(io::repeat(b'x'), 10 * READ_BYTES);
        let error = pieces.next().expect_err("no newline comes");
        assert!(matches!(error, ReadError::LineTooLong));
    }
}
