<?php

use App\Http\Controllers\AuthController;
use Illuminate\Support\Facades\Broadcast;
use Illuminate\Support\Facades\Route;

Route::view('/', 'page');
Route::get('/login', [AuthController::class, 'form'])->name('login');
Route::post('/login', [AuthController::class, 'login']);

/* A broadcasting route that the application has made itself: unlike Laravel's own, it checks the CSRF token. */
Route::post('/own/broadcasting/auth', function () {
    return Broadcast::auth(request());
});
