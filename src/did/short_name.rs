//! Short names of DIDs for people. A short name is not a DID, so a command that gets one looks up the DID.

use sha2::{Digest, Sha256};

use super::canonical::canonical_did;

/// The longest DID that is its own short name, in characters.
const MAX_WHOLE: usize = 40;
/// How many characters of a short name are the beginning of the DID.
const BEGINNING: usize = 20;
/// How many characters of a short name are of the hash: 58 bits. Many DIDs begin and end alike, and their owners choose
/// both.
const HASH: usize = 10;
/// Separates the beginning from the hash. No DID contains it.
const MARK: char = '~';

/// Returns the short name of a DID or DID URL: the beginning of the DID, `~`, and a part of its hash. A DID of at most 40
/// characters is returned as it is. Both forms of a did:peer:4 have the same short name.
pub fn short_name(id: &str) -> String {
    let end = id.find(['#', '/', '?']).unwrap_or(id.len());
    let (did, rest) = id.split_at(end);
    if did.chars().count() <= MAX_WHOLE {
        return id.to_owned();
    }
    let did = canonical_did(did);
    let beginning: String = did.chars().take(BEGINNING).collect();
    let hash = bs58::encode(Sha256::digest(did.as_bytes())).into_string();
    // The first characters of a number in base58 are not uniform.
    let hash = &hash[hash.len() - HASH..];
    format!("{beginning}{MARK}{hash}{rest}")
}

/// Returns the beginning of the DID that a short name stands for. `None` if the text is not a short name with `~`.
pub fn short_name_beginning(text: &str) -> Option<&str> {
    let (beginning, hash) = text.split_once(MARK)?;
    let is_short_name = beginning.starts_with("did:")
        && beginning.chars().count() == BEGINNING
        && hash.len() == HASH
        && hash.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_short_name.then_some(beginning)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::did::{did_of, peer::short_form};

    #[test]
    fn names_that_begin_and_end_alike_differ() {
        let did = |middle: &str| format!("did:web:registry.example.org:members:{middle}:agent");
        let (a, b) = (short_name(&did("alice")), short_name(&did("bob")));
        assert_eq!(a, "did:web:registry.exa~H7R8cH1oWK");
        assert_ne!(a, b);
        for name in [&a, &b] {
            assert_eq!(name.len(), BEGINNING + 1 + HASH);
            assert_eq!(did_of(name), None);
            assert_eq!(short_name_beginning(name), Some("did:web:registry.exa"));
        }
    }

    #[test]
    fn urls_and_both_forms_of_a_peer_4() {
        let long = "did:peer:4zQmd8CpeFPci817KDsbSAKWcXAE2mjvCQSasRewvbSF54Bd:z2M1k7h4psgp4CmJcnQn2Ljp7Pz7ktsd7oBhMU3dWY5s4fhFNj17qcRTQ427C7QHNT6cQ7T3XfRh35Q2GhaNFZmWHVFq4vL7F8nm36PA9Y96DvdrUiRUaiCuXnBFrn1o7mxFZAx14JL4t8vUWpuDPwQuddVo1T8myRiVH7wdxuoYbsva5x6idEpCQydJdFjiHGCpNc2UtjzPQ8awSXkctGCnBmgkhrj5gto3D4i3EREXYq4Z8r2cWGBr2UzbSmnxW2BuYddFo9Yfm6mKjtJyLpF74ytqrF5xtf84MnGFg1hMBmh1xVx1JwjZ2BeMJs7mNS8DTZhKC7KH38EgqDtUZzfjhpjmmUfkXg2KFEA3EGbbVm1DPqQXayPYKAsYPS9AyKkcQ3fzWafLPP93UfNhtUPL8JW5pMcSV3P8v6j3vPXqnnGknNyBprD6YGUVtgLiAqDBDUF3LSxFQJCVYYtghMTv8WuSw9h1a1SRFrDQLGHE4UrkgoRvwaGWr64aM87T1eVGkP5Dt4L1AbboeK2ceLArPScrdYGTpi3BpTkLwZCdjdiFSfTy9okL1YNRARqUf2wm8DvkVGUU7u5nQA3ZMaXWJAewk6k1YUxKd7LvofGUK4YEDtoxN5vb6r1Q2godrGqaPkjfL3RoYPpDYymf9XhcgG8Kx3DZaA6cyTs24t45KxYAfeCw4wqUpCH9HbpD78TbEUr9PPAsJgXBvBj2VVsxnr7FKbK4KykGcg1W8M1JPz21Z4Y72LWgGQCmixovrkHktcTX1uNHjAvKBqVD5C7XmVfHgXCHj7djCh3vzLNuVLtEED8J1hhqsB1oCBGiuh3xXr7fZ9wUjJCQ1HYHqxLJKdYKtoCiPmgKM7etVftXkmTFETZmpM19aRyih3bao76LdpQtbw636r7a3qt8v4WfxsXJetSL8c7t24SqQBcAY89FBsbEnFNrQCMK3JEseKHVaU388ctvRD45uQfe5GndFxthj4iSDomk4uRFd1uRbywoP1tRuabHTDX42UxPjz";
        let short = short_form(long).expect("a did:peer:4");
        assert_eq!(short_name(long), short_name(short));
        assert_eq!(short_name(&format!("{short}#key-1")), format!("{}#key-1", short_name(short)));
        for whole in ["did:web:example.com", "did:web:example.com#key-1", "no DID at all", ""] {
            assert_eq!(short_name(whole), whole);
            assert_eq!(short_name_beginning(whole), None);
        }
        for text in ["did:web:registry.exa~", "did:web:registry.ex~sfvYJxr5D3", "did:peer:2.Ez6LSbysY~sfvYJxr5D-"] {
            assert_eq!(short_name_beginning(text), None, "{text}");
        }
    }
}
