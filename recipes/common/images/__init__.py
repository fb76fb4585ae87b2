"""Pictures in: from files, tables and packages to rows on disk, and back to sheets of pictures."""
