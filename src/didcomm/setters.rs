//! A macro that defines the setters of a builder.

/// Defines builder methods, each of which sets one optional member.
macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident: $type:ty => $value:expr;)*) => {$(
        $(#[$doc])*
        pub fn $name(mut self, $name: $type) -> Self {
            self.0.$name = Some($value);
            self
        }
    )*};
}
