//! Amounts of memory as people write and read them.

/// Reads `400M`, `1.5G`, `512MiB`, `1073741824`: K, M and G are powers of 1024.
pub fn parse(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return Err(format!("unknown unit {unit:?}; write e.g. 400M or 1.5G")),
    };
    let number: f64 = number.parse().map_err(|_| "not a number; write e.g. 400M or 1.5G".to_string())?;
    let bytes = number * (1u64 << shift) as f64;
    if bytes < u64::MAX as f64 { Ok(bytes as u64) } else { Err("too large".into()) }
}

/// Writes `12.3 MiB`.
pub fn show(bytes: u64) -> String {
    let (unit, shift) = match bytes {
        0..1024 => return format!("{bytes} B"),
        1024..0x10_0000 => ("KiB", 10),
        0x10_0000..0x4000_0000 => ("MiB", 20),
        _ => ("GiB", 30),
    };
    format!("{:.1} {unit}", bytes as f64 / (1u64 << shift) as f64)
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes() {
        assert_eq!(super::parse("400M"), Ok(400 << 20));
        assert_eq!(super::parse("1.5 GiB"), Ok(3 << 29));
        assert_eq!(super::parse("123"), Ok(123));
        assert!(super::parse("12q").is_err() && super::parse("").is_err() && super::parse("1e400G").is_err());
        assert_eq!((super::show(512), super::show(1536)), ("512 B".into(), "1.5 KiB".into()));
    }
}
