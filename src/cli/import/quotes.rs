//! Watches the bytes of a CSV file on their way to its parser, which tells neither on which line a row begins (it
//! counts line ends and blank lines before it to the row) nor that a file ends within quotes.

use std::collections::VecDeque;
use std::io::{self, Read};

/// Passes bytes on, and keeps account of quotes and lines as the parser does.
pub struct QuoteWatch<R> {
    inner: R,
    delimiter: u8,
    at: At,
    offset: u64,
    line: u64,
    /// Offset and line of the rows that began in what the parser was given and has not yet asked for: at most one for
    /// every second byte of its buffer.
    begun: VecDeque<(u64, u64)>,
    ended_within_quotes: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    RowStart,
    FieldStart,
    Plain,
    Quoted,
    /// After a quote within quotes: the end of them, or the first half of an escaped one.
    Quote,
}

impl<R> QuoteWatch<R> {
    /// Watches `inner`.
    pub fn new(inner: R, delimiter: u8) -> Self {
        let begun = VecDeque::new();
        Self { inner, delimiter, at: At::RowStart, offset: 0, line: 1, begun, ended_within_quotes: false }
    }

    /// What is watched.
    pub fn inner(&self) -> &R {
        &self.inner
    }

    /// Whether the end was reached, within quotes. The row that the parser gives then is its last.
    pub fn ended_within_quotes(&self) -> bool {
        self.ended_within_quotes
    }

    /// The line of the row that the parser says begins at `offset`: the first that begins there or later. Rows are to
    /// be asked for in order.
    pub fn line_of(&mut self, offset: u64) -> Option<u64> {
        while self.begun.front().is_some_and(|(begun, _)| *begun < offset) {
            self.begun.pop_front();
        }
        self.begun.front().map(|(_, line)| *line)
    }

    fn next(&self, byte: u8) -> At {
        match (self.at, byte) {
            (At::Quoted, b'"') => At::Quote,
            (At::RowStart | At::FieldStart | At::Quote, b'"') | (At::Quoted, _) => At::Quoted,
            (_, b'\n' | b'\r') => At::RowStart,
            (_, byte) if byte == self.delimiter => At::FieldStart,
            // A byte order mark; the parser takes it off.
            (At::RowStart, 0xef | 0xbb | 0xbf) if self.offset < 3 => At::RowStart,
            _ => At::Plain,
        }
    }
}

impl<R: Read> Read for QuoteWatch<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.ended_within_quotes = count == 0 && self.at == At::Quoted;
        for &byte in buffer.get(..count).unwrap_or_default() {
            let next = self.next(byte);
            if self.at == At::RowStart && next != At::RowStart {
                self.begun.push_back((self.offset, self.line));
            }
            self.at = next;
            self.offset += 1;
            self.line += u64::from(byte == b'\n');
        }
        Ok(count)
    }
}
