"""Demo pages: a trained model in the browser, with Gradio. What a capstone shows is in its own `page.py`."""
