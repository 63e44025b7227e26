#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fota_fuzz::sealed_check_in(data));
