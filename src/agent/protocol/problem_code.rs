//! Problem codes (DIDComm v2.1 "Problem Codes"): `e.p.xfer.cant-use-endpoint`.

/// A problem code, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code<'a> {
    /// Whether its consequences are clear.
    pub sorter: Sorter,
    /// How much is undone.
    pub scope: Scope<'a>,
    /// What it is about, from the general to the specific; empty if the sender left it out.
    pub descriptors: &'a str,
}

/// The leftmost part of a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sorter {
    /// `e`: it defeats somebody's intentions.
    Error,
    /// `w`: its consequences have to be judged.
    Warning,
}

/// How much context is undone if the problem is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope<'a> {
    /// `p`: the protocol is abandoned or reset.
    Protocol,
    /// `m`: the message has no effect.
    Message,
    /// The state that the sender goes back to.
    State(&'a str),
}

impl<'a> Code<'a> {
    /// Takes a code apart. It is lower kebab-case; an underscore within a token is read too, since the specification has
    /// a `message_too_big` of its own (v2.1 "Message Constraints").
    pub fn parse(code: &'a str) -> Option<Self> {
        let mut parts = code.splitn(3, '.');
        let sorter = match parts.next()? {
            "e" => Sorter::Error,
            "w" => Sorter::Warning,
            _ => return None,
        };
        let scope = match parts.next()? {
            "p" => Scope::Protocol,
            "m" => Scope::Message,
            state if is_token(state) => Scope::State(state),
            _ => return None,
        };
        let descriptors = parts.next();
        if descriptors.is_some_and(|all| !all.split('.').all(is_token)) {
            return None;
        }
        Some(Self { sorter, scope, descriptors: descriptors.unwrap_or("") })
    }

    /// Whether its descriptors begin with these, token by token: `me.res` begins `me.res.storage`.
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
        use {Scope::*, Sorter::*};
        for (code, sorter, scope, descriptors) in [
            ("e.p.xfer.cant-use-endpoint", Error, Protocol, "xfer.cant-use-endpoint"),
            ("w.m.msg", Warning, Message, "msg"),
            ("e.get-pay-details.payment-failed", Error, State("get-pay-details"), "payment-failed"),
            ("e.p", Error, Protocol, ""),
            ("w.msg.bad-lang", Warning, State("msg"), "bad-lang"),
            ("e.p.me.res.storage.message_too_big", Error, Protocol, "me.res.storage.message_too_big"),
        ] {
            assert_eq!(Code::parse(code), Some(Code { sorter, scope, descriptors }), "{code}");
        }
        for code in
            ["", "e", "x.p.msg", "E.p.msg", "e.P.msg", "e.p.", "e..msg", "e.p.msg.", "e.p.Bad", "e.p.-a", "e.p.a b"]
        {
            assert_eq!(Code::parse(code), None, "{code}");
        }
        let code = Code::parse("e.p.me.res.storage").unwrap();
        assert!(code.is_about("me.res") && code.is_about("me.res.storage") && !code.is_about("me.re"));
    }
}
