//! A stack on which no secret stays.
//!
//! What is dropped is wiped where it stands last, and not where it was moved from: a cipher's key schedule, which begins
//! with the key, leaves copies in frames that are gone. A thread that then waits would keep them until it goes as deep
//! again.

use std::hint::black_box;

use zeroize::Zeroize;

/// So deep the stack is wiped, in words of eight bytes. Without optimisation content encryption left keys 20 KiB deep (rustc
/// 1.95); with it none was found, and less is wiped to be sure.
const DEPTH: usize = if cfg!(debug_assertions) { 4096 } else { 1024 };

/// Does something with secrets, and wipes the stack that it has used.
#[inline(never)]
pub(super) fn wiped<T>(work: impl FnOnce() -> T) -> T {
    let result = below(work);
    wipe();
    result
}

/// A frame that begins where that of [`wipe`] does.
#[inline(never)]
fn below<T>(work: impl FnOnce() -> T) -> T {
    work()
}

#[inline(never)]
fn wipe() {
    let mut used = [0u64; DEPTH];
    used.zeroize();
    black_box(&used);
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::{
        collections::BTreeSet,
        fs::{self, File},
        os::unix::fs::FileExt,
        thread,
    };

    use crate::crypto::{Cek, ContentEncryption, Kek, unwrap_key, wrap_key};

    /// How many bytes below its own frame a thread looks at.
    const LOOK: usize = 256 << 10;

    /// The pieces of a secret that `work` leaves on the stack.
    fn left_by(secret: &Cek, work: impl FnOnce() + Send) -> BTreeSet<usize> {
        let look = move || {
            // All that is needed is there before: what looks is not to write over what it looks for.
            let memory = File::open("/proc/self/mem").unwrap();
            let mut stack = vec![0u8; LOOK];
            let here = 0u8;
            let top = &raw const here as u64;
            work();
            let read = memory.read_exact_at(&mut stack, top - LOOK as u64);
            read.unwrap();
            let pieces = secret.as_bytes().chunks_exact(16).enumerate();
            pieces.filter(|(_, piece)| stack.windows(16).any(|window| window == *piece)).map(|(at, _)| at).collect()
        };
        thread::scope(|scope| {
            thread::Builder::new().stack_size(4 << 20).spawn_scoped(scope, look).unwrap().join().unwrap()
        })
    }

    #[test]
    fn a_content_key_does_not_stay_on_it() {
        assert!(fs::exists("/proc/self/mem").unwrap());
        for enc in ContentEncryption::ALL {
            let cek = Cek::generate(enc);
            let sealed = enc.seal(&cek, b"aad", &[7; 1000]);
            assert_eq!(left_by(&cek, || drop(enc.seal(&cek, b"aad", &[7; 1000]))), BTreeSet::new(), "{enc} seals");
            let opens = || drop(enc.open(&cek, b"aad", &sealed.iv, &sealed.ciphertext, &sealed.tag).unwrap());
            assert_eq!(left_by(&cek, opens), BTreeSet::new(), "{enc} opens");
            let kek = Kek::new([9; 32]);
            let wrapped = wrap_key(&kek, &cek);
            assert_eq!(left_by(&cek, || drop(wrap_key(&kek, &cek))), BTreeSet::new(), "{enc} wrapped");
            assert_eq!(left_by(&cek, || drop(unwrap_key(&kek, &wrapped).unwrap())), BTreeSet::new(), "{enc} unwrapped");
        }
    }

    /// Else the test above would show nothing.
    #[test]
    fn what_is_not_wiped_is_found() {
        let cek = Cek::generate(ContentEncryption::A256Gcm);
        #[inline(never)]
        fn copies(cek: &Cek) {
            let copy: [u8; 32] = cek.as_bytes().try_into().unwrap();
            std::hint::black_box(&copy);
        }
        assert!(!left_by(&cek, || copies(&cek)).is_empty());
        assert!(left_by(&cek, || super::wiped(|| copies(&cek))).is_empty());
    }
}
