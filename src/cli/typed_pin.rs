//! Checks the text that a person types when asked for a PIN.

use std::io;

/// Refuses the one-time password that a YubiKey types when it is touched while nothing waits for a touch: 44 letters of
/// its own alphabet (modhex).
pub fn refuse_yubikey_otp(text: &str) -> io::Result<()> {
    const LENGTH: usize = 44;
    if text.len() == LENGTH && text.bytes().all(|letter| b"cbdefghijklnrtuv".contains(&letter)) {
        let message = "that is what a YubiKey types when it is touched by accident: touch it only when it asks for it";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_the_otp_of_an_accidental_touch() {
        assert!(refuse_yubikey_otp("cccccccfhcbelrhifnjrrddcgrburluurftrgfdrdifj").is_err());
        for pin in ["471108", "cccccccfhcbe", "accccccfhcbelrhifnjrrddcgrburluurftrgfdrdifj", ""] {
            assert!(refuse_yubikey_otp(pin).is_ok(), "{pin}");
        }
    }
}
