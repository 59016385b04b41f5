"""The database itself: its connections and transactions, threads that outlive a cancelled query, shared commits."""
