//! APDUs: parsing, command chaining, and responses in several parts (ISO/IEC 7816-4:2005 section 5.1).

use crate::status::Status;

/// The longest data of one command, in one APDU or in a chain, in bytes.
const MAX_DATA: usize = 3072;

/// The longest response to a short APDU, in bytes.
const MAX_RESPONSE: usize = 256;

/// CLA bit 5: more parts of this command follow (ISO/IEC 7816-4:2005 section 5.1.1.1).
const CHAINED: u8 = 0x10;

/// A command or a part of one.
pub(crate) struct Command {
    pub(crate) ins: u8,
    pub(crate) p1: u8,
    pub(crate) p2: u8,
    pub(crate) data: Vec<u8>,
    /// Whether more parts follow.
    chained: bool,
    /// Whether the APDU is extended, so that the response may be long too.
    extended: bool,
}

impl Command {
    pub(crate) fn parse(apdu: &[u8]) -> Result<Self, Status> {
        let [cla, ins, p1, p2, body @ ..] = apdu else { return Err(Status::WRONG_LENGTH) };
        if cla & !CHAINED != 0 {
            return Err(Status::NO_CLASS);
        }
        let (data, extended) = data(body)?;
        Ok(Self { ins: *ins, p1: *p1, p2: *p2, data: data.to_vec(), chained: cla & CHAINED != 0, extended })
    }

    fn continues(&self, part: &Self) -> bool {
        (self.ins, self.p1, self.p2) == (part.ins, part.p1, part.p2)
    }
}

/// The data of a command, without Lc and Le, and whether the lengths are extended.
fn data(body: &[u8]) -> Result<(&[u8], bool), Status> {
    match body {
        // No data, and at most Le. Tools that always write Lc send two bytes.
        [] | [_] | [0, _] => Ok((&[], false)),
        [0, _, _] => Ok((&[], true)),
        [0, high, low, rest @ ..] => {
            data_before_le(u16::from_be_bytes([*high, *low]).into(), rest, 2).map(|data| (data, true))
        }
        [length, rest @ ..] => data_before_le((*length).into(), rest, 1).map(|data| (data, false)),
    }
}

/// The data at the start of `rest`. After it comes Le, of `expected` bytes, or nothing.
fn data_before_le(length: usize, rest: &[u8], expected: usize) -> Result<&[u8], Status> {
    let (data, after) = rest.split_at_checked(length).ok_or(Status::WRONG_LENGTH)?;
    if after.is_empty() || after.len() == expected { Ok(data) } else { Err(Status::WRONG_LENGTH) }
}

/// The state between APDUs.
#[derive(Default)]
pub(crate) struct Transport {
    /// The parts of a chain so far.
    chain: Option<Command>,
    /// The part of a response that GET RESPONSE has not fetched yet.
    rest: Vec<u8>,
}

impl Transport {
    /// Adds a part to its chain. Returns the command when it is complete. A part of another command begins a new chain.
    pub(crate) fn gather(&mut self, part: Command) -> Result<Option<Command>, Status> {
        self.rest.clear();
        let command = match self.chain.take() {
            Some(mut begun) if begun.continues(&part) => {
                begun.data.extend(part.data);
                Command { chained: part.chained, extended: part.extended, ..begun }
            }
            _ => part,
        };
        if command.data.len() > MAX_DATA {
            return Err(Status::WRONG_LENGTH);
        }
        if command.chained {
            self.chain = Some(command);
            return Ok(None);
        }
        Ok(Some(command))
    }

    /// The response to a command. What does not fit into a short response is kept for GET RESPONSE.
    pub(crate) fn answer(&mut self, command: &Command, mut data: Vec<u8>) -> Vec<u8> {
        if command.extended || data.len() <= MAX_RESPONSE {
            return with_status(data, Status::SUCCESS);
        }
        self.rest = data.split_off(MAX_RESPONSE);
        with_status(data, Status::more(self.rest.len()))
    }

    /// GET RESPONSE (ISO/IEC 7816-4:2005 section 7.6.1).
    pub(crate) fn more(&mut self, command: &Command) -> Vec<u8> {
        self.chain = None;
        if self.rest.is_empty() {
            return with_status(Vec::new(), Status::CONDITIONS);
        }
        let rest = std::mem::take(&mut self.rest);
        self.answer(command, rest)
    }

    /// Forgets chained data and the rest of a response.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

pub(crate) fn with_status(mut data: Vec<u8>, status: Status) -> Vec<u8> {
    data.extend(status.0.to_be_bytes());
    data
}
