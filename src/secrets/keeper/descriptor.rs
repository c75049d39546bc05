//! Passes a connection to another process, from the supervisor to the agent (SCM_RIGHTS, unix(7)).

use std::{
    io::{self, IoSlice, IoSliceMut, Write},
    mem::MaybeUninit,
    os::{fd::AsFd, unix::net::UnixStream},
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recv,
    recvmsg, sendmsg,
};

use super::frame::{FrameBuffer, decode, encode_frame};

/// The byte that is sent with a descriptor.
const PASSED: u8 = 1;
/// The byte that is sent without a descriptor; a frame with the reason follows.
const REFUSED: u8 = 0;

/// Passes the connection `stream` over `control`.
pub(super) fn send_descriptor(control: &UnixStream, stream: &UnixStream) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = [stream.as_fd()];
    ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(control, &[IoSlice::new(&[PASSED])], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Sends the reason why no connection is passed.
pub(super) fn send_refusal(mut control: &UnixStream, reason: &str) -> io::Result<()> {
    control.write_all(&[REFUSED])?;
    control.write_all(&encode_frame(&reason)?)
}

/// Receives a connection.
///
/// # Errors
/// The reason of a refusal, and those of the control socket.
pub(super) fn receive_descriptor(control: &UnixStream) -> io::Result<UnixStream> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(control, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    if received.bytes == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the supervisor of the keepers has ended"));
    }
    let descriptor = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    match (byte, descriptor) {
        ([PASSED], Some(descriptor)) => Ok(UnixStream::from(descriptor)),
        ([REFUSED], None) => Err(receive_refusal(control)?),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the supervisor sent neither a connection nor a reason")),
    }
}

fn receive_refusal(control: &UnixStream) -> io::Result<io::Error> {
    let mut buffer = FrameBuffer::new();
    loop {
        if let Some(reason) = buffer.next_frame()? {
            return Ok(io::Error::other(decode::<String>(&reason)?));
        }
        match recv(control, buffer.free_space()?, RecvFlags::empty())? {
            (_, 0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            (_, bytes) => buffer.add(bytes),
        }
    }
}
