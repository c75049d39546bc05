//! Parses problem codes such as `e.p.xfer.cant-use-endpoint` (DIDComm v2.1 "Problem Codes").

/// A parsed problem code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProblemCode<'a> {
    /// Whether the problem is an error or a warning.
    pub sorter: Sorter,
    /// How much is undone.
    pub scope: ProblemScope<'a>,
    /// The descriptors, from the general to the specific; empty if the sender left them out.
    pub descriptors: &'a str,
}

/// The leftmost part of a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sorter {
    /// `e`: an error, which prevents the intended result.
    Error,
    /// `w`: a warning, whose consequences are not clear.
    Warning,
}

/// How much context is undone if the problem is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProblemScope<'a> {
    /// `p`: the protocol is abandoned or reset.
    Protocol,
    /// `m`: the message has no effect.
    Message,
    /// The name of the state that the sender returns to.
    State(&'a str),
}

impl<'a> ProblemCode<'a> {
    /// Parses a code in lower kebab-case. An underscore within a token is accepted too, since the specification itself
    /// has `message_too_big` (v2.1 "Message Constraints"). `None` if the code is malformed.
    pub fn parse(code: &'a str) -> Option<Self> {
        let mut parts = code.splitn(3, '.');
        let sorter = match parts.next()? {
            "e" => Sorter::Error,
            "w" => Sorter::Warning,
            _ => return None,
        };
        let scope = match parts.next()? {
            "p" => ProblemScope::Protocol,
            "m" => ProblemScope::Message,
            state if is_token(state) => ProblemScope::State(state),
            _ => return None,
        };
        let descriptors = parts.next();
        if descriptors.is_some_and(|all| !all.split('.').all(is_token)) {
            return None;
        }
        Some(Self { sorter, scope, descriptors: descriptors.unwrap_or("") })
    }

    /// Whether the descriptors begin with these tokens: those of `me.res.storage` begin with `me.res`.
    pub fn is_about(&self, descriptors: &str) -> bool {
        self.descriptors.strip_prefix(descriptors).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }
}

fn is_token(token: &str) -> bool {
    let word =
        |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    token.split(['-', '_']).all(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes() {
        use {ProblemScope::*, Sorter::*};
        for (code, sorter, scope, descriptors) in [
            ("e.p.xfer.cant-use-endpoint", Error, Protocol, "xfer.cant-use-endpoint"),
            ("w.m.msg", Warning, Message, "msg"),
            ("e.get-pay-details.payment-failed", Error, State("get-pay-details"), "payment-failed"),
            ("e.p", Error, Protocol, ""),
            ("w.msg.bad-lang", Warning, State("msg"), "bad-lang"),
            ("e.p.me.res.storage.message_too_big", Error, Protocol, "me.res.storage.message_too_big"),
        ] {
            assert_eq!(ProblemCode::parse(code), Some(ProblemCode { sorter, scope, descriptors }), "{code}");
        }
        for code in
            ["", "e", "x.p.msg", "E.p.msg", "e.P.msg", "e.p.", "e..msg", "e.p.msg.", "e.p.Bad", "e.p.-a", "e.p.a b"]
        {
            assert_eq!(ProblemCode::parse(code), None, "{code}");
        }
        let code = ProblemCode::parse("e.p.me.res.storage").unwrap();
        assert!(code.is_about("me.res") && code.is_about("me.res.storage") && !code.is_about("me.re"));
    }
}
