//! Datagrams by the batch: sendmmsg(2) and recvmmsg(2).

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};

/// Most datagrams of one system call.
pub(super) const BATCH: usize = 32;

/// Buffers of one batch and the structures that point into them.
pub(super) struct Batch<const OCTETS: usize> {
    buffers: Box<[[u8; OCTETS]]>,
    // Point into `buffers` and `names`, whose heap storage never moves.
    pieces: Box<[libc::iovec]>,
    headers: Box<[libc::mmsghdr]>,
    names: Box<[libc::sockaddr_storage]>,
}

impl<const OCTETS: usize> Batch<OCTETS> {
    /// A batch for a connected socket.
    pub(super) fn new() -> Self {
        let mut buffers = vec![[0_u8; OCTETS]; BATCH].into_boxed_slice();
        let mut pieces: Box<[libc::iovec]> = buffers
            .iter_mut()
            .map(|buffer| libc::iovec {
                iov_base: buffer.as_mut_ptr().cast(),
                iov_len: OCTETS,
            })
            .collect();
        let headers = pieces
            .iter_mut()
            .map(|piece| {
                // SAFETY: mmsghdr is plain data; all zeros means no name, no control data and no flags.
                let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
                header.msg_hdr.msg_iov = piece;
                header.msg_hdr.msg_iovlen = 1;
                header
            })
            .collect();
        Batch {
            buffers,
            pieces,
            headers,
            names: Box::default(),
        }
    }

    /// A batch for a socket that is not connected: what is received can be sent back to where it came from.
    pub(super) fn with_names() -> Self {
        let mut batch = Self::new();
        // SAFETY: sockaddr_storage is plain data, and all zeros is a value of it.
        batch.names = (0..BATCH).map(|_| unsafe { std::mem::zeroed() }).collect();
        for (header, name) in batch.headers.iter_mut().zip(&mut batch.names) {
            header.msg_hdr.msg_name = std::ptr::from_mut(name).cast();
        }
        batch
    }

    /// Puts a datagram at `place` of the batch.
    ///
    /// # Panics
    ///
    /// When it is longer than a buffer.
    pub(super) fn put(&mut self, place: usize, datagram: &[u8]) -> &mut [u8] {
        self.pieces[place].iov_len = datagram.len();
        let buffer = &mut self.buffers[place][..datagram.len()];
        buffer.copy_from_slice(datagram);
        buffer
    }

    /// What was received at `place`.
    pub(super) fn received(&self, place: usize) -> &[u8] {
        &self.buffers[place][..(self.headers[place].msg_len as usize).min(OCTETS)]
    }

    /// Makes what was received at `place` a datagram of `octets` to be sent: cut, or with what the buffer holds behind it.
    ///
    /// # Panics
    ///
    /// When that is longer than a buffer.
    pub(super) fn resize(&mut self, place: usize, octets: usize) {
        assert!(octets <= OCTETS, "a datagram fits its buffer");
        self.pieces[place].iov_len = octets;
    }

    /// Sends the first `count`; how many the socket took without waiting.
    ///
    /// # Errors
    ///
    /// When the system refuses, such as for a closed port.
    pub(super) fn send(&mut self, socket: &UdpSocket, count: usize) -> Result<usize> {
        assert!(count <= BATCH, "a batch is not larger than it is");
        // SAFETY: every header points to its own piece, every piece into its own buffer of at least `iov_len` octets, and
        // names, where there are any, to their own storage; all of them outlive the call.
        let sent = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                count as libc::c_uint,
                libc::MSG_DONTWAIT,
            )
        };
        taken(sent).context("send datagrams")
    }

    /// Receives what is there, up to a batch; with `wait`, waits for the first as long as the socket's timeout says.
    ///
    /// # Errors
    ///
    /// When the system refuses, such as for a closed port.
    pub(super) fn receive(&mut self, socket: &UdpSocket, wait: bool) -> Result<usize> {
        for piece in &mut self.pieces {
            piece.iov_len = OCTETS;
        }
        if !self.names.is_empty() {
            for header in &mut self.headers {
                header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            }
        }
        let flags = if wait { libc::MSG_WAITFORONE } else { libc::MSG_DONTWAIT };
        // SAFETY: as for sending; each buffer is OCTETS long and so says its piece. No timeout is given.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                BATCH as libc::c_uint,
                flags,
                std::ptr::null_mut(),
            )
        };
        taken(received).context("receive datagrams")
    }
}

/// The count that a system call returned; 0 when it would have had to wait.
fn taken(count: libc::c_int) -> io::Result<usize> {
    match usize::try_from(count) {
        Ok(count) => Ok(count),
        Err(_) => match io::Error::last_os_error() {
            error if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(0),
            error => Err(error),
        },
    }
}
