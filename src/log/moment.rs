//! A point in time as logs write it.
//!
//! The offset from UTC is given by the caller (it takes a system call to know): this room is pure.

use std::io::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

/// A wall-clock time and the local offset at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    seconds: i64,
    offset_seconds: i32,
}

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

impl Moment {
    /// A time, with the seconds that local time is ahead of UTC.
    pub fn new(time: SystemTime, offset_seconds: i32) -> Moment {
        Moment { seconds: unix_seconds(time), offset_seconds }
    }

    /// `[29/Feb/2000:01:00:00 +0100]`, the Common Log Format's time.
    pub fn write_common_log(self, out: &mut Vec<u8>) {
        let local = self.seconds + i64::from(self.offset_seconds);
        let (year, month, day) = civil(local.div_euclid(86_400));
        let second_of_day = local.rem_euclid(86_400);
        let (hour, minute, second) =
            (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
        let sign = if self.offset_seconds < 0 { '-' } else { '+' };
        let offset = self.offset_seconds.unsigned_abs() / 60;
        let month = MONTHS[month as usize - 1];
        // Writing into a Vec cannot fail.
        let _ = write!(
            out,
            "[{day:02}/{month}/{year:04}:{hour:02}:{minute:02}:{second:02} {sign}{:02}{:02}]",
            offset / 60,
            offset % 60
        );
    }
}

/// Seconds since 1970, negative before.
pub fn unix_seconds(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_secs() as i64,
        Err(before) => -(before.duration().as_secs() as i64),
    }
}

/// Year, month (1-12) and day (1-31) of a day counted from 1970-01-01, proleptic Gregorian.
///
/// Counts in years that begin in March, so that the leap day is a year's last.
fn civil(days: i64) -> (i64, u32, u32) {
    const DAYS_OF_ERA: i64 = 146_097; // 400 years
    let shifted = days + 719_468; // from 0000-03-01
    let era = shifted.div_euclid(DAYS_OF_ERA);
    let day = shifted.rem_euclid(DAYS_OF_ERA);
    let year_of_era = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month as u32, day_of_month as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn days() {
        for (days, expected) in [
            (0, (1970, 1, 1)),
            (-1, (1969, 12, 31)),
            (58, (1970, 2, 28)),
            (59, (1970, 3, 1)),
            (11_016, (2000, 2, 29)),
            (11_017, (2000, 3, 1)),
            (19_723, (2024, 1, 1)),
            (20_778, (2026, 11, 21)),
            (47_540, (2100, 2, 28)),
            (47_541, (2100, 3, 1)),
        ] {
            assert_eq!(civil(days), expected, "{days}");
        }
    }

    #[test]
    fn common_log() {
        let check = |seconds, offset, expected: &str| {
            let mut out = Vec::new();
            Moment::new(UNIX_EPOCH + Duration::from_secs(seconds), offset)
                .write_common_log(&mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        };
        check(0, 0, "[01/Jan/1970:00:00:00 +0000]");
        check(951_868_799, 0, "[29/Feb/2000:23:59:59 +0000]");
        check(951_868_799, 3600, "[01/Mar/2000:00:59:59 +0100]");
        check(0, -(3 * 3600 + 1800), "[31/Dec/1969:20:30:00 -0330]");
    }
}
