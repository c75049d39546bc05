//! `src/did`: DID URLs, documents, methods and resolvers.

#[path = "../support/webvh_logs.rs"]
mod webvh_logs;

mod documents;
mod methods;
mod properties;
mod resolvers;
mod webvh;
