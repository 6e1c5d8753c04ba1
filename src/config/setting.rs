//! How one value of a recipe is written: in TOML, as the text of a flag, and what is expected.

use toml::Value;

/// A type that a recipe key can have.
pub trait Setting: Sized {
    /// What is possible, to follow the word "expected" in a sentence.
    fn expected() -> String;
    /// The setting that a TOML value stands for; none if it has the wrong type or is not possible.
    fn read(value: &Value) -> Option<Self>;
    /// The TOML value that [`Setting::read`] turns back into this setting.
    fn write(&self) -> Value;

    /// The setting that a flag's text stands for: a TOML value, or the text itself, unquoted.
    fn parse(text: &str) -> Option<Self> {
        let value = text.parse::<Value>().ok().and_then(|value| Self::read(&value));
        value.or_else(|| Self::read(&Value::String(text.into())))
    }
}

/// A value found in a recipe, as a sentence names it.
pub(super) fn describe(value: &Value) -> String {
    match value {
        Value::String(_) => format!("the text {value}"),
        Value::Integer(_) => format!("the whole number {value}"),
        Value::Float(_) => format!("the number {value}"),
        Value::Boolean(_) => value.to_string(),
        Value::Array(_) => format!("the list {value}"),
        Value::Datetime(_) => format!("the date {value}"),
        Value::Table(_) => "a table".into(),
    }
}

impl Setting for usize {
    fn expected() -> String {
        "a whole number".into()
    }
    fn read(value: &Value) -> Option<Self> {
        match *value {
            Value::Integer(number) => usize::try_from(number).ok(),
            // 2e6 is how people write millions.
            Value::Float(number) if (0.0..9e15).contains(&number) && number.fract() == 0.0 => Some(number as usize),
            _ => None,
        }
    }
    fn write(&self) -> Value {
        Value::Integer(*self as i64)
    }
}

impl Setting for u64 {
    fn expected() -> String {
        usize::expected()
    }
    fn read(value: &Value) -> Option<Self> {
        usize::read(value).map(|number| number as u64)
    }
    fn write(&self) -> Value {
        Value::Integer(*self as i64)
    }
}

impl Setting for f64 {
    fn expected() -> String {
        "a number".into()
    }
    fn read(value: &Value) -> Option<Self> {
        match *value {
            Value::Float(number) if number.is_finite() => Some(number),
            Value::Integer(number) => Some(number as f64),
            _ => None,
        }
    }
    fn write(&self) -> Value {
        Value::Float(*self)
    }
}

impl Setting for bool {
    fn expected() -> String {
        "true or false".into()
    }
    fn read(value: &Value) -> Option<Self> {
        value.as_bool()
    }
    fn write(&self) -> Value {
        Value::Boolean(*self)
    }
}

impl Setting for String {
    fn expected() -> String {
        "text".into()
    }
    fn read(value: &Value) -> Option<Self> {
        value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
    }
    fn write(&self) -> Value {
        Value::String(self.clone())
    }
    fn parse(text: &str) -> Option<Self> {
        Self::read(&Value::String(text.into()))
    }
}

impl Setting for Vec<usize> {
    fn expected() -> String {
        "a list of whole numbers such as [128, 512]".into()
    }
    fn read(value: &Value) -> Option<Self> {
        value.as_array()?.iter().map(usize::read).collect()
    }
    fn write(&self) -> Value {
        self.iter().map(usize::write).collect::<Vec<_>>().into()
    }
}

/// "none" stands for no value.
impl<T: Setting> Setting for Option<T> {
    fn expected() -> String {
        format!("{} or none", T::expected())
    }
    fn read(value: &Value) -> Option<Self> {
        if value.as_str() == Some("none") {
            return Some(None);
        }
        T::read(value).map(Some)
    }
    fn write(&self) -> Value {
        self.as_ref().map_or_else(|| Value::String("none".into()), T::write)
    }
}

/// A setting that may be left to the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auto<T> {
    /// Chosen by the program; the key's description says how.
    Auto,
    /// As the user said.
    Value(T),
}

impl<T> Auto<T> {
    /// The user's value, if there is one.
    pub fn value(&self) -> Option<&T> {
        match self {
            Auto::Auto => None,
            Auto::Value(value) => Some(value),
        }
    }
}

impl<T: Setting> Setting for Auto<T> {
    fn expected() -> String {
        format!("{} or auto", T::expected())
    }
    fn read(value: &Value) -> Option<Self> {
        if value.as_str() == Some("auto") {
            return Some(Auto::Auto);
        }
        T::read(value).map(Auto::Value)
    }
    fn write(&self) -> Value {
        self.value().map_or_else(|| Value::String("auto".into()), T::write)
    }
}

/// Declares a closed set of named values with its names, `Display`, `FromStr` and [`Setting`].
macro_rules! choice {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$doc])* $variant,)+
        }

        impl $name {
            /// Every value, in the order of declaration.
            pub const ALL: &[$name] = &[$($name::$variant),+];

            /// The name in recipes and files.
            pub fn name(self) -> &'static str {
                match self {
                    $($name::$variant => $text,)+
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> std::result::Result<Self, String> {
                let found = $name::ALL.iter().find(|choice| choice.name() == text);
                found.copied().ok_or_else(|| {
                    format!("found {text:?}, expected {}", <$name as $crate::config::Setting>::expected())
                })
            }
        }

        impl $crate::config::Setting for $name {
            fn expected() -> String {
                $name::ALL.iter().map(|choice| choice.name()).collect::<Vec<_>>().join(" | ")
            }
            fn read(value: &toml::Value) -> Option<Self> {
                value.as_str()?.parse().ok()
            }
            fn write(&self) -> toml::Value {
                toml::Value::String(self.name().into())
            }
        }
    };
}
pub(crate) use choice;
