//! The parameters of statements, with their SQL types.
//!
//! A statement that is prepared gets the types of its parameters from the server. One that is not prepared tells the server
//! their types.

use std::borrow::Cow;

use tokio_postgres::types::{ToSql, Type};

/// A parameter of a statement.
pub(super) trait Parameter: ToSql + Sync {
    /// The type that a statement says its parameter has.
    fn sql_type(&self) -> Type;
    /// The type of an array of such parameters.
    fn array_type(&self) -> Type;
    /// The parameter for the client of PostgreSQL.
    fn value(&self) -> &(dyn ToSql + Sync);
}

impl<T: Typed + ToSql + Sync> Parameter for T {
    fn sql_type(&self) -> Type {
        T::TYPE
    }

    fn array_type(&self) -> Type {
        T::ARRAY
    }

    fn value(&self) -> &(dyn ToSql + Sync) {
        self
    }
}

/// The parameters of a statement.
pub(super) type Parameters<'a> = &'a [&'a dyn Parameter];

/// Lists the parameters of a statement.
macro_rules! params {
    ($($value:expr),* $(,)?) => { &[$(&$value as &dyn $crate::agent::store::postgres::parameter::Parameter),*] };
}
pub(super) use params;

/// A type of Rust that a statement has as a parameter.
pub(super) trait Typed {
    const TYPE: Type;
    /// The type of an array of these.
    const ARRAY: Type;
}

macro_rules! typed {
    ($($rust:ty => $one:ident, $many:ident;)*) => {
        $(impl Typed for $rust {
            const TYPE: Type = Type::$one;
            const ARRAY: Type = Type::$many;
        })*
    };
}

typed! {
    i64 => INT8, INT8_ARRAY;
    bool => BOOL, BOOL_ARRAY;
    f64 => FLOAT8, FLOAT8_ARRAY;
    str => TEXT, TEXT_ARRAY;
    String => TEXT, TEXT_ARRAY;
    Cow<'_, str> => TEXT, TEXT_ARRAY;
    [u8] => BYTEA, BYTEA_ARRAY;
    Vec<u8> => BYTEA, BYTEA_ARRAY;
}

impl<T: Typed + ?Sized> Typed for &T {
    const TYPE: Type = T::TYPE;
    const ARRAY: Type = T::ARRAY;
}

impl<T: Typed> Typed for Option<T> {
    const TYPE: Type = T::TYPE;
    const ARRAY: Type = T::ARRAY;
}

// An array of arrays has the same type in PostgreSQL.
impl<T: Typed> Typed for [T] {
    const TYPE: Type = T::ARRAY;
    const ARRAY: Type = T::ARRAY;
}

impl<T: Typed> Typed for Vec<T> {
    const TYPE: Type = T::ARRAY;
    const ARRAY: Type = T::ARRAY;
}
