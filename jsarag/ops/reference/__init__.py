"""The ops in plain torch: any device, any dtype, the truth in float64, and the fallback."""
