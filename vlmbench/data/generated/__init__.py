"""Images that vlmbench draws itself: parts, surfaces and their defects."""
