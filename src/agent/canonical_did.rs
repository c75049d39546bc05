//! The form of a DID in the keys of records and in comparisons. It is as long as the DID, except for a did:peer:4.

pub(in crate::agent) use crate::did::canonical_did;
