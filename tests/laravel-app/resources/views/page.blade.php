<!DOCTYPE html>
<html lang="en">
<head>
    <meta charset="utf-8">
    <meta name="csrf-token" content="{{ csrf_token() }}">
    <link rel="icon" href="data:,">
    <title>The page that the browser tests load Echo into</title>
</head>
<body>{{ auth()->user()->name ?? 'Nobody' }} is signed in.</body>
</html>
