//! Command lines that a person may paste into a shell.

/// Quotes a word, if a shell would not take it as it is.
pub fn quoted(word: impl ToString) -> String {
    let word = word.to_string();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+:=@".contains(&byte);
    match !word.is_empty() && word.bytes().all(plain) {
        true => word,
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}
