//! Names and paths in commands that a message gives to a person.

/// A word of a command line, in quotes if a shell would not take it as it is. The label of a token may have any character.
pub(in crate::secrets) fn shell_word(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
    match !text.is_empty() && text.bytes().all(is_plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}
