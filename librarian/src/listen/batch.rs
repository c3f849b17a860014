//! Datagrams by the batch: recvmmsg(2) and sendmmsg(2) move up to [`BATCH`] of them in one system call.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Most datagrams of one batch.
pub(super) const BATCH: usize = 32;
/// Longest datagram.
const OCTETS_MAX: usize = 65_535;

/// Datagrams that came together, and what is sent back to each.
pub(super) struct Batch {
    buffers: Box<[u8]>,
    answers: Vec<Vec<u8>>,
    froms: Box<[libc::sockaddr_storage; BATCH]>,
    // These point to each other and into the buffers while a system call runs, and are set anew before each.
    pieces: Box<[libc::iovec; BATCH]>,
    headers: Box<[libc::mmsghdr; BATCH]>,
    count: usize,
}

// SAFETY: the raw pointers are set before each system call and lead to memory that the batch itself owns.
unsafe impl Send for Batch {}

impl Batch {
    /// An empty batch. Its buffers take 2 MiB of addresses; memory only as far as datagrams are long.
    pub(super) fn new() -> Batch {
        // SAFETY: all of these are plain data, of which zeros are a value.
        let (froms, pieces, headers) = unsafe {
            (
                MaybeUninit::zeroed().assume_init(),
                MaybeUninit::zeroed().assume_init(),
                MaybeUninit::zeroed().assume_init(),
            )
        };
        Batch {
            buffers: vec![0; BATCH * OCTETS_MAX].into(),
            answers: (0..BATCH).map(|_| Vec::new()).collect(),
            froms: Box::new(froms),
            pieces: Box::new(pieces),
            headers: Box::new(headers),
            count: 0,
        }
    }

    /// Takes what has come, without waiting, and says how many datagrams that is.
    ///
    /// # Errors
    ///
    /// What the system says; [`io::ErrorKind::WouldBlock`] when nothing has come.
    pub(super) fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.count = 0;
        for (place, buffer) in self.buffers.chunks_exact_mut(OCTETS_MAX).enumerate() {
            self.pieces[place] = libc::iovec {
                iov_base: buffer.as_mut_ptr().cast(),
                iov_len: OCTETS_MAX,
            };
            self.answers[place].clear();
        }
        self.point();
        // SAFETY: each header leads to its own name and piece, each piece to its own buffer of as many octets as it says; all
        // of them outlive the call. No timeout is given.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        self.count = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        Ok(self.count)
    }

    /// Sends every answer that is not empty to where its datagram came from, and says how many were sent. Those that the system
    /// refuses to send are passed over; those that find no room are left out: whoever asked asks again.
    pub(super) fn send(&mut self, socket: BorrowedFd<'_>) -> usize {
        // Answers first, in the order in which their questions came.
        let mut waiting = 0;
        let mut places = [0; BATCH];
        for place in 0..self.count {
            if !self.answers[place].is_empty() {
                places[waiting] = place;
                waiting += 1;
            }
        }
        for (slot, place) in places[..waiting].iter().enumerate() {
            let answer = &mut self.answers[*place];
            self.pieces[slot] = libc::iovec {
                iov_base: answer.as_mut_ptr().cast(),
                iov_len: answer.len(),
            };
            // Places rise, so that no name is overwritten that is still needed.
            self.froms[slot] = self.froms[*place];
        }
        self.point();
        let (mut at, mut sent) = (0, 0);
        while at < waiting {
            // SAFETY: as for receiving; the pieces lead to the answers, which nobody changes meanwhile.
            let done = unsafe {
                libc::sendmmsg(
                    socket.as_raw_fd(),
                    self.headers[at..].as_mut_ptr(),
                    (waiting - at) as libc::c_uint,
                    libc::MSG_DONTWAIT,
                )
            };
            match usize::try_from(done) {
                Ok(done) => {
                    sent += done;
                    at += done.max(1);
                }
                Err(_) => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::WouldBlock => break,
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    error => {
                        tracing::debug!(%error, "send over UDP");
                        at += 1;
                    }
                },
            }
        }
        self.count = 0;
        sent
    }

    /// What is in datagram number `place`.
    pub(super) fn octets(&self, place: usize) -> &[u8] {
        let octets = (self.headers[place].msg_len as usize).min(OCTETS_MAX);
        let start = place * OCTETS_MAX;
        &self.buffers[start..start + octets]
    }

    /// Datagram number `place`, the room for its answer, and where it came from.
    pub(super) fn datagram(&mut self, place: usize) -> (&[u8], &mut Vec<u8>, IpAddr) {
        let octets = (self.headers[place].msg_len as usize).min(OCTETS_MAX);
        let start = place * OCTETS_MAX;
        let from = ip_of(&self.froms[place]);
        (&self.buffers[start..start + octets], &mut self.answers[place], from)
    }

    /// Whole address of whoever sent datagram number `place`.
    pub(super) fn from(&self, place: usize) -> std::net::SocketAddr {
        std::net::SocketAddr::new(ip_of(&self.froms[place]), port_of(&self.froms[place]))
    }

    /// Leads every header to its name and piece.
    fn point(&mut self) {
        for place in 0..BATCH {
            let header = &mut self.headers[place].msg_hdr;
            header.msg_name = (&raw mut self.froms[place]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_iov = &raw mut self.pieces[place];
            header.msg_iovlen = 1;
        }
    }
}

fn ip_of(from: &libc::sockaddr_storage) -> IpAddr {
    let at = std::ptr::from_ref(from);
    match libc::c_int::from(from.ss_family) {
        libc::AF_INET6 => {
            // SAFETY: a storage has room and alignment for every kind of address, and the family says that it is this one.
            let address = unsafe { &*at.cast::<libc::sockaddr_in6>() };
            IpAddr::V6(Ipv6Addr::from(address.sin6_addr.s6_addr))
        }
        _ => {
            // SAFETY: as above; a storage of zeros is an address of zeros.
            let address = unsafe { &*at.cast::<libc::sockaddr_in>() };
            IpAddr::V4(Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr)))
        }
    }
}

fn port_of(from: &libc::sockaddr_storage) -> u16 {
    // SAFETY: the port lies at the same place in both kinds of addresses.
    let port = unsafe { (*std::ptr::from_ref(from).cast::<libc::sockaddr_in>()).sin_port };
    u16::from_be(port)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn every_answer_goes_to_whoever_asked_and_silence_to_the_others() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let socket = UdpSocket::bind(address).unwrap();
            let askers: Vec<UdpSocket> = (0..BATCH + 5).map(|_| UdpSocket::bind(address).unwrap()).collect();
            for (number, asker) in askers.iter().enumerate() {
                asker
                    .send_to(&vec![7; 1 + number * 100], socket.local_addr().unwrap())
                    .unwrap();
            }
            let mut batch = Batch::new();
            let mut seen = 0;
            while seen < askers.len() {
                let count = batch.receive(socket.as_fd()).unwrap();
                for place in 0..count {
                    let number = seen + place;
                    assert_eq!(batch.from(place), askers[number].local_addr().unwrap());
                    let (datagram, answer, from) = batch.datagram(place);
                    assert_eq!(datagram, vec![7; 1 + number * 100]);
                    assert_eq!(from, askers[number].local_addr().unwrap().ip());
                    if number % 3 != 0 {
                        answer.extend((number as u16).to_be_bytes());
                    }
                }
                let asked = seen..seen + count;
                assert_eq!(
                    batch.send(socket.as_fd()),
                    asked.filter(|number| number % 3 != 0).count()
                );
                seen += count;
            }
            let nothing = batch.receive(socket.as_fd()).unwrap_err();
            assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
            for (number, asker) in askers.iter().enumerate().filter(|(number, _)| number % 3 != 0) {
                let mut answer = [0; 4];
                assert_eq!(asker.recv(&mut answer).unwrap(), 2);
                assert_eq!(answer[..2], (number as u16).to_be_bytes());
            }
            // Loopback delivers at once: what is not there was not sent.
            askers[0].set_nonblocking(true).unwrap();
            assert_eq!(
                askers[0].recv(&mut [0; 4]).unwrap_err().kind(),
                io::ErrorKind::WouldBlock
            );
        }
    }
}
