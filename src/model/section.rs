//! The macro that declares a section of the configuration, one row a key.

/// Declares a section as a struct: each key with its documentation, type, written form (a module of [`super::units`]),
/// default, and where it has one its range, another condition, a condition of each item, what is wrong with a value, or the
/// section it is.
macro_rules! section {
    (
        $(#[$about:meta])*
        $name:ident {
            $(
                $(#[$about_key:meta])*
                $key:ident: $type:ty $(as $form:literal)? = $default:expr
                    $(, in $range:expr)? $(, where $valid:expr => $message:expr)?
                    $(, each $valid_item:expr => $about_item:expr)? $(, check $wrong:expr)? $(, section $invalid:expr)?;
            )*
        }
    ) => {
        $(#[$about])*
        #[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        #[non_exhaustive]
        pub struct $name {
            $(
                $(#[$about_key])*
                $(#[serde(with = $form)])?
                pub $key: $type,
            )*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($key: $default,)* }
            }
        }

        impl $name {
            /// The first key with an invalid value, and what it must be.
            pub(crate) fn invalid(&self) -> Option<(String, String)> {
                $(
                    $(if !($range).contains(&self.$key) {
                        let message = $crate::model::units::range_text(&($range));
                        return Some((stringify!($key).to_owned(), message));
                    })?
                    $(
                        let valid: fn(&$type) -> bool = $valid;
                        if !valid(&self.$key) {
                            return Some((stringify!($key).to_owned(), $message.to_owned()));
                        }
                    )?
                    $(
                        if let Some(item) = self.$key.iter().find(|item| !$valid_item(item)) {
                            let item = item.to_string();
                            let message = format!("{}: {}", item.escape_debug(), $about_item);
                            return Some((stringify!($key).to_owned(), message));
                        }
                    )?
                    $(
                        let wrong: fn(&$type) -> Option<String> = $wrong;
                        if let Some(message) = wrong(&self.$key) {
                            return Some((stringify!($key).to_owned(), message));
                        }
                    )?
                    $(if let Some((key, message)) = $invalid(&self.$key) {
                        return Some((format!("{}.{key}", stringify!($key)), message));
                    })?
                )*
                None
            }
        }
    };
}
pub(crate) use section;
