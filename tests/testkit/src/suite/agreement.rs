//! Key agreement: the token unwraps what software wraps, and the other way round.

use claviger::{
    crypto::{Cek, ContentEncryption, EncryptedKey},
    keys::PublicKey,
    secrets::{Custodian, Ecdh1puSender, Purpose, TokenError, UnwrapRequest},
};

use super::{Capabilities, temporary::Temporary};
use crate::{
    PrivateKey,
    reference::{Parties, fresh_cek, message_to, message_with, read, wrap_for},
};

/// ECDH-ES, for content keys of both lengths.
pub fn unwraps_ecdh_es(token: &dyn Custodian, capabilities: &Capabilities) {
    for curve in capabilities.agreeing() {
        let key = Temporary::generate(token, curve);
        for enc in ContentEncryption::ALL {
            let cek = Cek::generate(enc);
            let message = message_to(key.public(), None, &cek, &Parties::example());
            assert_eq!(token.unwrap_cek(key.public(), &message, &Purpose::KeyTest), Ok(cek), "{curve} {enc}");
        }
    }
}

/// ECDH-1PU, for content keys of both lengths.
pub fn unwraps_ecdh_1pu(token: &dyn Custodian, capabilities: &Capabilities) {
    for curve in capabilities.agreeing() {
        let (key, sender) = (Temporary::generate(token, curve), PrivateKey::generate(curve));
        for enc in ContentEncryption::ALL {
            let cek = Cek::generate(enc);
            let message = message_to(key.public(), Some(&sender), &cek, &Parties::example());
            assert_eq!(token.unwrap_cek(key.public(), &message, &Purpose::KeyTest), Ok(cek), "{curve} {enc}");
        }
    }
}

/// A token may keep Zs. A kept Zs must be used only for its pair of keys, and never as Ze.
pub fn unwraps_from_one_sender_again_and_again(token: &dyn Custodian, capabilities: &Capabilities) {
    for curve in capabilities.agreeing() {
        let keys = [Temporary::generate(token, curve), Temporary::generate(token, curve)];
        let senders = [PrivateKey::generate(curve), PrivateKey::generate(curve)];
        for round in 0..3 {
            for key in &keys {
                for sender in [Some(&senders[0]), None, Some(&senders[1]), Some(&senders[0])] {
                    let cek = fresh_cek();
                    let message = message_to(key.public(), sender, &cek, &Parties::example());
                    assert_eq!(
                        token.unwrap_cek(key.public(), &message, &Purpose::KeyTest),
                        Ok(cek),
                        "{curve}, round {round}"
                    );
                }
            }
        }
    }
}

/// PartyUInfo, PartyVInfo and tag of any length, including empty ones.
pub fn unwraps_with_any_party_info(token: &dyn Custodian, capabilities: &Capabilities) {
    for curve in capabilities.agreeing() {
        let (key, sender) = (Temporary::generate(token, curve), PrivateKey::generate(curve));
        for length in [0, 1, 31, 32, 63, 64, 65, 2000] {
            let apu = (0..length).map(|byte| byte as u8).collect();
            let parties = Parties { apu, apv: vec![1; length], tag: vec![2; length] };
            for sender in [None, Some(&sender)] {
                let cek = fresh_cek();
                let message = message_to(key.public(), sender, &cek, &parties);
                assert_eq!(
                    token.unwrap_cek(key.public(), &message, &Purpose::KeyTest),
                    Ok(cek),
                    "{curve}, {length} bytes"
                );
            }
        }
    }
}

/// Z is a coordinate at full length: leading zeros are not removed (RFC 7518 section 4.6.2, after NIST SP 800-56A). Z
/// begins with a zero byte in one message of 256, and on P-521 in every other.
pub fn unwraps_where_z_begins_with_zero(token: &dyn Custodian, capabilities: &Capabilities) {
    for curve in capabilities.agreeing() {
        let key = Temporary::generate(token, curve);
        let cek = fresh_cek();

        let (ephemeral, ze) = loop {
            let ephemeral = PrivateKey::generate(curve);
            let ze = ephemeral.agree(key.public()).expect("one curve");
            if ze.as_bytes()[0] == 0 {
                break (ephemeral, ze);
            }
        };
        let message = message_with(&ze, None, ephemeral.public(), None, &cek, &Parties::example());
        assert_eq!(token.unwrap_cek(key.public(), &message, &Purpose::KeyTest), Ok(cek.clone()), "Ze on {curve}");

        let sender = loop {
            let sender = PrivateKey::generate(curve);
            if sender.agree(key.public()).expect("one curve").as_bytes()[0] == 0 {
                break sender;
            }
        };
        let message = message_to(key.public(), Some(&sender), &cek, &Parties::example());
        assert_eq!(token.unwrap_cek(key.public(), &message, &Purpose::KeyTest), Ok(cek), "Zs on {curve}");
    }
}

/// A changed message is the peer's fault, whatever was changed: [`TokenError::Unwrap`].
pub fn refuses_what_was_changed(token: &dyn Custodian, capabilities: &Capabilities) {
    for curve in capabilities.agreeing() {
        let (key, sender) = (Temporary::generate(token, curve), PrivateKey::generate(curve));
        let mallory = PrivateKey::generate(curve);
        let parties = Parties::example();
        let cek = fresh_cek();
        let es = message_to(key.public(), None, &cek, &parties);
        let authcrypt = message_to(key.public(), Some(&sender), &cek, &parties);

        for message in [&es, &authcrypt] {
            check_refused(token, &key, "apu", message, |message| message.apu[0] ^= 1);
            check_refused(token, &key, "apu cut", message, |message| message.apu.truncate(3));
            check_refused(token, &key, "apv", message, |message| message.apv[31] ^= 0x80);
            check_refused(token, &key, "apu and apv swapped", message, |message| {
                std::mem::swap(&mut message.apu, &mut message.apv);
            });
            check_refused(token, &key, "epk", message, |message| message.epk = mallory.public().clone());
            for byte in [0, 7, 8, 40, 71] {
                check_refused(token, &key, "encrypted_key", message, |message| message.encrypted_key[byte] ^= 1);
            }
        }
        check_refused(token, &key, "no sender", &authcrypt, |message| message.sender = None);
        check_refused(token, &key, "a sender", &es, |message| {
            message.sender = Some(Ecdh1puSender { key: sender.public().clone(), tag: parties.tag.clone() });
        });
        check_refused(token, &key, "another sender", &authcrypt, |message| {
            message.sender.as_mut().expect("authcrypt").key = mallory.public().clone();
        });
        check_refused(token, &key, "tag", &authcrypt, |message| {
            message.sender.as_mut().expect("authcrypt").tag[0] ^= 1;
        });

        assert_eq!(
            token.unwrap_cek(key.public(), &authcrypt, &Purpose::KeyTest),
            Ok(cek.clone()),
            "the token still works"
        );
        assert_eq!(token.unwrap_cek(key.public(), &es, &Purpose::KeyTest), Ok(cek));
    }
}

/// A message for one key of the token does not unwrap with another.
pub fn refuses_what_is_for_another(token: &dyn Custodian, capabilities: &Capabilities) {
    for curve in capabilities.agreeing() {
        let (ours, other) = (Temporary::generate(token, curve), Temporary::generate(token, curve));
        let sender = PrivateKey::generate(curve);
        for sender in [None, Some(&sender)] {
            let cek = fresh_cek();
            let message = message_to(ours.public(), sender, &cek, &Parties::example());
            assert_eq!(
                token.unwrap_cek(other.public(), &message, &Purpose::KeyTest),
                Err(TokenError::Unwrap),
                "{curve}"
            );
            assert_eq!(token.unwrap_cek(ours.public(), &message, &Purpose::KeyTest), Ok(cek), "{curve}");
        }
    }
}

/// A wrapped key that is not 40 or 72 bytes long is the peer's fault too.
pub fn refuses_a_wrapped_key_of_no_length(token: &dyn Custodian, capabilities: &Capabilities) {
    for curve in capabilities.agreeing() {
        let key = Temporary::generate(token, curve);
        let message = message_to(key.public(), None, &fresh_cek(), &Parties::example());
        for length in [0, 1, 8, 16, 24, 39, 41, 64, 71, 73, 80, 1000] {
            check_refused(token, &key, "length", &message, |message| message.encrypted_key.resize(length, 0));
        }
    }
}

/// Each of 1 to 20 recipients can unwrap its key, and the keys are in the recipients' order.
pub fn wraps_for_one_to_twenty(token: &dyn Custodian, capabilities: &Capabilities) {
    for curve in capabilities.agreeing() {
        let key = Temporary::generate(token, curve);
        let recipients: Vec<_> = (0..20).map(|_| PrivateKey::generate(curve)).collect();
        for count in [1, 2, 3, 7, 19, 20] {
            // The last recipients come first, so that known and unknown recipients are mixed.
            check_wraps(token, key.public(), &recipients[20 - count..].iter().collect::<Vec<_>>());
        }
    }
}

/// A recipient may occur twice in a message, and again in the next one.
pub fn wraps_for_the_same_recipient_twice(token: &dyn Custodian, capabilities: &Capabilities) {
    for curve in capabilities.agreeing() {
        let key = Temporary::generate(token, curve);
        let (one, other) = (PrivateKey::generate(curve), PrivateKey::generate(curve));
        check_wraps(token, key.public(), &[&one, &one, &other]);
        check_wraps(token, key.public(), &[&one]);
    }
}

/// Without recipients there are no wrapped keys.
pub fn wraps_for_nobody(token: &dyn Custodian, capabilities: &Capabilities) {
    for curve in capabilities.agreeing() {
        let key = Temporary::generate(token, curve);
        check_wraps(token, key.public(), &[]);
    }
}

/// A message to its own sender: Zs is derived from a key with itself.
pub fn wraps_and_unwraps_to_itself(token: &dyn Custodian, capabilities: &Capabilities) {
    for curve in capabilities.agreeing() {
        let key = Temporary::generate(token, curve);
        let (ephemeral, cek, parties) = (PrivateKey::generate(curve), fresh_cek(), Parties::example());
        let wrap = wrap_for([key.public()], &ephemeral, &cek, &parties);
        let mut wrapped = token.wrap_cek(key.public(), &wrap, &Purpose::KeyTest).expect("a wrapped key");
        let message = UnwrapRequest {
            epk: ephemeral.public().clone(),
            sender: Some(Ecdh1puSender { key: key.public().clone(), tag: parties.tag }),
            apu: parties.apu,
            apv: parties.apv,
            encrypted_key: wrapped.pop().expect("one"),
        };
        assert_eq!(token.unwrap_cek(key.public(), &message, &Purpose::KeyTest), Ok(cek), "{curve}");
    }
}

/// Checks that the key unwraps with both algorithms, and wraps.
pub(super) fn check_unwraps(token: &dyn Custodian, key: &PublicKey) {
    let sender = PrivateKey::generate(key.curve());
    for sender in [None, Some(&sender)] {
        let cek = fresh_cek();
        let message = message_to(key, sender, &cek, &Parties::example());
        assert_eq!(token.unwrap_cek(key, &message, &Purpose::KeyTest), Ok(cek), "{}", key.curve());
    }
    check_wraps(token, key, &[&sender]);
}

pub(super) fn wrap_one(token: &dyn Custodian, key: &PublicKey) -> Result<Vec<EncryptedKey>, TokenError> {
    let ephemeral = PrivateKey::generate(key.curve());
    let recipient = PrivateKey::generate(key.curve());
    token.wrap_cek(
        key,
        &wrap_for([recipient.public()], &ephemeral, &fresh_cek(), &Parties::example()),
        &Purpose::KeyTest,
    )
}

fn check_wraps(token: &dyn Custodian, key: &PublicKey, recipients: &[&PrivateKey]) {
    let ephemeral = PrivateKey::generate(key.curve());
    let (cek, parties) = (fresh_cek(), Parties::example());
    let wrap = wrap_for(recipients.iter().map(|recipient| recipient.public()), &ephemeral, &cek, &parties);
    let wrapped = token
        .wrap_cek(key, &wrap, &Purpose::KeyTest)
        .unwrap_or_else(|error| panic!("wrap on {}: {error}", key.curve()));
    assert_eq!(wrapped.len(), recipients.len());
    for (recipient, encrypted_key) in recipients.iter().zip(&wrapped) {
        let cek_read = read(recipient, ephemeral.public(), Some(key), &parties, encrypted_key);
        assert_eq!(cek_read.as_ref(), Some(&cek), "{}", key.curve());
    }
}

fn check_refused(
    token: &dyn Custodian,
    key: &Temporary<'_>,
    what: &str,
    message: &UnwrapRequest,
    change: impl FnOnce(&mut UnwrapRequest),
) {
    let mut changed = message.clone();
    change(&mut changed);
    let curve = key.public().curve();
    assert_eq!(
        token.unwrap_cek(key.public(), &changed, &Purpose::KeyTest),
        Err(TokenError::Unwrap),
        "{curve}, changed: {what}"
    );
}
