//! A PKCS#11 token.
