//! Wipes the stack after an operation with secrets.
//!
//! `zeroize` wipes a value where the value is dropped, but not the places from which the value was moved. A cipher's
//! key schedule, for example, begins with the key, and leaves copies in stack frames that are no longer in use. The
//! copies stay there until the thread's stack grows as deep again.

use std::hint::black_box;

use zeroize::Zeroize;

/// How deep the stack is wiped, in words of eight bytes. Without optimisation, content encryption left keys 20 KiB deep
/// (rustc 1.95), so 32 KiB are wiped. With optimisation, no key was found; 8 KiB are wiped to be safe.
const DEPTH: usize = if cfg!(debug_assertions) { 4096 } else { 1024 };

/// Calls `work`, and wipes the stack that it used.
#[inline(never)]
pub(crate) fn with_wiped_stack<T>(work: impl FnOnce() -> T) -> T {
    let result = in_own_frame(work);
    wipe();
    result
}

/// Calls `work` in a frame that begins where the frame of [`wipe`] will begin.
#[inline(never)]
fn in_own_frame<T>(work: impl FnOnce() -> T) -> T {
    work()
}

#[inline(never)]
fn wipe() {
    let mut used = [0u64; DEPTH];
    used.zeroize();
    black_box(&used);
}

#[cfg(all(test, target_os = "linux"))]
pub(crate) mod testing {
    use std::{collections::BTreeSet, fs::File, os::unix::fs::FileExt, thread};

    /// How many bytes below its own frame a thread searches.
    const SEARCHED: usize = 256 << 10;

    /// Returns which 16-byte pieces of a secret `work` leaves on the stack, by their index.
    pub(crate) fn remains_of(secret: &[u8], work: impl FnOnce() + Send) -> BTreeSet<usize> {
        let search = move || {
            // Everything is allocated first, so that the search does not overwrite what it searches for.
            let memory = File::open("/proc/self/mem").unwrap();
            let mut stack = vec![0u8; SEARCHED];
            let here = 0u8;
            let top = &raw const here as u64;
            work();
            let read = memory.read_exact_at(&mut stack, top - SEARCHED as u64);
            read.unwrap();
            let pieces = secret.chunks_exact(16).enumerate();
            pieces.filter(|(_, piece)| stack.windows(16).any(|window| window == *piece)).map(|(at, _)| at).collect()
        };
        thread::scope(|scope| {
            thread::Builder::new().stack_size(4 << 20).spawn_scoped(scope, search).unwrap().join().unwrap()
        })
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::{collections::BTreeSet, fs};

    use super::testing::remains_of;
    use crate::crypto::{Cek, ContentEncryption, KdfInfo, Kek, SharedSecret, concat_kdf, unwrap_key, wrap_key};

    #[test]
    fn no_content_key_remains_on_the_stack() {
        assert!(fs::exists("/proc/self/mem").unwrap());
        for enc in ContentEncryption::ALL {
            let cek = Cek::generate(enc);
            let sealed = enc.seal(&cek, b"aad", &[7; 1000]);
            assert_eq!(
                remains_of(cek.as_bytes(), || drop(enc.seal(&cek, b"aad", &[7; 1000]))),
                BTreeSet::new(),
                "{enc} seals"
            );
            let opens = || drop(enc.open(&cek, b"aad", &sealed.iv, &sealed.ciphertext, &sealed.tag).unwrap());
            assert_eq!(remains_of(cek.as_bytes(), opens), BTreeSet::new(), "{enc} opens");
            let kek = Kek::new([9; 32]);
            let wrapped = wrap_key(&kek, &cek);
            assert_eq!(remains_of(cek.as_bytes(), || drop(wrap_key(&kek, &cek))), BTreeSet::new(), "{enc} wrapped");
            assert_eq!(
                remains_of(cek.as_bytes(), || drop(unwrap_key(&kek, &wrapped).unwrap())),
                BTreeSet::new(),
                "{enc} unwrapped"
            );
        }
    }

    #[test]
    fn neither_z_nor_kek_remains_on_the_stack() {
        let [ze, zs] = [3, 4].map(|byte| SharedSecret::new((byte..byte + 66).collect()));
        for (z, tag) in [(vec![&ze], None), (vec![&ze, &zs], Some(&[7; 32][..]))] {
            let info = KdfInfo { apu: b"apu", apv: &[0xa5; 32], tag };
            let kek = concat_kdf(&z, &info);
            for secret in [ze.as_bytes(), zs.as_bytes(), kek.as_bytes()] {
                assert_eq!(remains_of(secret, || drop(concat_kdf(&z, &info))), BTreeSet::new());
            }
        }
    }

    /// Shows that the search finds a secret that was not wiped. Otherwise the test above would prove nothing.
    #[test]
    fn a_secret_that_is_not_wiped_is_found() {
        let cek = Cek::generate(ContentEncryption::A256Gcm);
        #[inline(never)]
        fn copies(cek: &Cek) {
            let copy: [u8; 32] = cek.as_bytes().try_into().unwrap();
            std::hint::black_box(&copy);
        }
        assert!(!remains_of(cek.as_bytes(), || copies(&cek)).is_empty());
        assert!(remains_of(cek.as_bytes(), || super::with_wiped_stack(|| copies(&cek))).is_empty());
    }
}
