//! TLS after its handshake, over a socket that does not wait.
//!
//! Decrypted bytes go straight to where they are wanted. rustls keeps the record
//! that is arriving and the one that the socket does not take; nothing is
//! encrypted before the one before it is gone.

use std::io::{self, BufRead as _, Write as _};

use bytes::BytesMut;
use tokio_rustls::rustls::ServerConnection;

use super::socket::{NoWait, Socket};

/// Most that is encrypted at once: a full record.
const RECORD_MAX: usize = 16 * 1024;

#[derive(Debug)]
pub(super) struct Tls {
    connection: ServerConnection,
    /// Decrypted bytes are waiting that nobody had room for.
    has_more: bool,
    /// Size of what was encrypted last.
    last: usize,
}

impl Tls {
    pub(super) fn new(mut connection: ServerConnection) -> Self {
        connection.set_buffer_limit(Some(RECORD_MAX));
        Self {
            connection,
            // The client may have gone on before the handshake was over for us.
            has_more: true,
            last: 0,
        }
    }

    pub(super) const fn has_more(&self) -> bool {
        self.has_more
    }

    pub(super) fn unsent(&self) -> usize {
        if self.connection.wants_write() {
            self.last.max(1)
        } else {
            0
        }
    }

    pub(super) fn try_read(&mut self, socket: &Socket, input: &mut BytesMut) -> io::Result<usize> {
        loop {
            if let Some(read) = self.take(input)? {
                return Ok(read);
            }
            // At the end of the stream rustls hears of it here, and says so above.
            self.connection.read_tls(&mut NoWait(socket))?;
            if let Err(error) = self.connection.process_new_packets() {
                // The alert that says why; whether it gets there is not our concern.
                self.flush(socket).ok();
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
        }
    }

    /// Moves what is decrypted into the room of `input`; `None` when nothing is.
    fn take(&mut self, input: &mut BytesMut) -> io::Result<Option<usize>> {
        let before = input.len();
        let mut reader = self.connection.reader();
        loop {
            let room = input.capacity() - input.len();
            let read = input.len() - before;
            match reader.fill_buf() {
                Ok([]) => {
                    self.has_more = read > 0;
                    return Ok(Some(read));
                }
                Ok(_) if room == 0 => {
                    self.has_more = true;
                    return Ok(Some(read));
                }
                Ok(bytes) => {
                    let count = bytes.len().min(room);
                    input.extend_from_slice(&bytes[..count]);
                    reader.consume(count);
                }
                Err(error) => {
                    self.has_more = false;
                    return match error.kind() {
                        _ if read > 0 => Ok(Some(read)),
                        io::ErrorKind::WouldBlock => Ok(None),
                        // Devices that are switched off do not say goodbye; MQTT has its
                        // own end, so nobody can pretend one by cutting the connection.
                        io::ErrorKind::UnexpectedEof => Ok(Some(0)),
                        _ => Err(error),
                    };
                }
            }
        }
    }

    pub(super) fn try_write(&mut self, socket: &Socket, output: &[u8]) -> io::Result<usize> {
        self.flush(socket)?;
        if self.connection.wants_write() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let written = self.connection.writer().write(output)?;
        self.last = written;
        self.flush(socket)?;
        Ok(written)
    }

    pub(super) fn flush(&mut self, socket: &Socket) -> io::Result<()> {
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut NoWait(socket)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    pub(super) fn say_end(&mut self) {
        self.connection.send_close_notify();
    }
}
