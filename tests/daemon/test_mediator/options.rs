//! How the mediator of the tests behaves: by the specifications, like another project's mediator, or with malice.

/// The protocols that a mediator speaks, and its limits.
#[derive(Debug, Clone, Copy)]
pub struct MediatorOptions {
    /// The version of coordinate-mediation.
    pub coordination: &'static str,
    /// The name and version of the pickup protocol.
    pub pickup: &'static str,
    /// Whether the mediator's DID has a WebSocket endpoint.
    pub socket: bool,
    /// Whether the mediator supports live mode.
    pub live: bool,
    /// Whether the mediator answers discover-features queries.
    pub discloses: bool,
    /// Whether live mode sends the bare message and forgets it. messagepickup 3.0 can be read that way.
    pub raw: bool,
    /// Whether the mediator grants mediation.
    pub grants: bool,
    /// What it does differently.
    pub quirks: &'static [Quirk],
}

/// Something that a mediator does differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quirk {
    /// A pattern in a discover-features query is a regular expression that must match the whole identifier.
    RegexQueries,
    /// A discover-features query is answered with HTTP status 500.
    QueriesFail,
    /// A message of an unknown type is answered with HTTP status 400, and not with a problem report.
    StrictTypes,
    /// A second mediate-request of the same DID is denied.
    DeniesAgain,
    /// The body of a mediate-deny is `null`.
    NullDenial,
    /// Answers have no `thid`.
    NoThread,
    /// A status has no `thid`.
    UnnamedStatus,
    /// A delivery has its own id as `thid`, and a refusal of live mode its own id as `pthid`.
    OwnThread,
    /// The first answer comes from another DID of the mediator, with `from_prior`, and so do all later ones, without.
    OtherDid,
    /// Messages have neither `from` nor `to`.
    NoSender,
    /// Problem reports have a type of the protocol that they are about (Credo, in message-pickup 4.0).
    OwnProblemType,
    /// Where there is nothing to answer, the HTTP body is `null`.
    NullResponse,
    /// Every request is answered with HTTP status 401.
    WantsLogin,
    /// A live delivery is encrypted to the DID in the forward's `next`, with the forward's id as `thid`.
    LiveToNext,
    /// A delivery has all waiting messages.
    IgnoresLimit,
    /// An acknowledgement deletes only the first of its messages.
    TakesOneId,
    /// An acknowledgement is not answered.
    SilentAcknowledgement,
    /// Requests of a DID that was not granted mediation are refused with `e.p.req.not_enroll`.
    ChecksEnrolment,
    /// Delivered messages are texts in `json`: base64url of the envelope.
    TextInJson,
    /// Delivered messages are in `json`.
    Json,
    /// Live mode is accepted, with `live_delivery: false`.
    SaysNotLive,
    /// Live mode is accepted, and nothing is delivered live.
    NeverLive,
    /// Each DID is refused with `client_error`.
    RefusesDids,
    /// A WebSocket is closed at the first message.
    ClosesSocket,
    /// Acknowledged messages are not deleted.
    NeverDeletes,
    /// A delivery gives its messages new ids.
    NewIds,
    /// A status always reports seven messages.
    CountsNeverFall,
    /// In live mode, the first message that waits is delivered again and again.
    EndlessLive,
}

pub const CURRENT: MediatorOptions = MediatorOptions {
    coordination: "3.0",
    pickup: "message-pickup/4.0",
    socket: true,
    live: true,
    discloses: true,
    raw: false,
    grants: true,
    quirks: &[],
};

const OLDER: MediatorOptions = MediatorOptions { coordination: "2.0", pickup: "messagepickup/3.0", ..CURRENT };

/// The Identus mediator (hyperledger-identus/mediator, dfb6cd6).
pub const IDENTUS: MediatorOptions = MediatorOptions {
    quirks: &[
        Quirk::RegexQueries,
        Quirk::LiveToNext,
        Quirk::IgnoresLimit,
        Quirk::TakesOneId,
        Quirk::SilentAcknowledgement,
        Quirk::ChecksEnrolment,
    ],
    ..OLDER
};

/// adorsys/didcomm-mediator-rs, e5e6ca2.
pub const ADORSYS: MediatorOptions = MediatorOptions {
    socket: false,
    live: false,
    quirks: &[
        Quirk::QueriesFail,
        Quirk::StrictTypes,
        Quirk::DeniesAgain,
        Quirk::NullDenial,
        Quirk::NoThread,
        Quirk::OwnThread,
        Quirk::TextInJson,
    ],
    ..OLDER
};

/// roots-id/didcomm-mediator, 0f80884. Blocktrust's mediator answers in the same way.
pub const ROOTS_ID: MediatorOptions = MediatorOptions {
    socket: false,
    live: false,
    quirks: &[Quirk::DeniesAgain, Quirk::NoThread, Quirk::OtherDid, Quirk::NoSender, Quirk::NullResponse, Quirk::Json],
    ..OLDER
};

/// affinidi-messaging-mediator 0.10.
pub const AFFINIDI: MediatorOptions = MediatorOptions { quirks: &[Quirk::WantsLogin], ..OLDER };
