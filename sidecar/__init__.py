"""The data plane: captures, attests, identifies, decides, carries and records every connection."""
