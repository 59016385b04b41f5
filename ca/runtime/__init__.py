"""The CA put together: started, looked after, ended."""
